# Runs in a machine that is saved and goes on, and tells a server on the host twenty times a second, over one connection, what it
# sees: `NUMBER MONOTONIC-NANOSECONDS PID MEMORY LOCK`, the last two 1 as long as they are what they were. The server answers each
# line with its number.
#
#     perl witness.pl ADDRESS PORT LOCKED-FILE
use strict;
use warnings;
use Fcntl ':flock';
use Socket;

my ($address, $port, $locked) = @ARGV;
my $clock_gettime = `uname -m` =~ /^x86_64/ ? 228 : 113;

sub monotonic {
    my $time = pack 'qq', 0, 0;
    syscall($clock_gettime, 1, $time) == 0 or die "clock_gettime: $!";
    my ($seconds, $nanoseconds) = unpack 'qq', $time;
    return $seconds * 1_000_000_000 + $nanoseconds;
}

open my $file, '>', $locked or die "$locked: $!";
flock $file, LOCK_EX | LOCK_NB or die "flock: $!";
my $memory = join '', map { pack 'N', ($_ * 2654435761) % 4294967296 } 1 .. 500_000;
my $sum = unpack '%32N*', $memory;
socket my $socket, PF_INET, SOCK_STREAM, 0 or die "socket: $!";
connect $socket, pack_sockaddr_in($port, inet_aton($address)) or die "connect: $!";
for (my $number = 1; ; $number++) {
    my $same = unpack('%32N*', $memory) == $sum ? 1 : 0;
    # Another description of the same file: refused as long as the lock is held.
    open my $other, '>', $locked or die "$locked: $!";
    my $held = flock($other, LOCK_EX | LOCK_NB) ? 0 : 1;
    close $other;
    syswrite $socket, join(' ', $number, monotonic(), $$, $same, $held) . "\n" or die "write: $!";
    my $answer = <$socket> // die "the connection has ended";
    chomp $answer;
    $answer == $number or die "answer $answer to $number";
    select undef, undef, undef, 0.05;
}
