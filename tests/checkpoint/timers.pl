# Runs in a machine and sets one timer of each kind, due in so many milliseconds; writes down of each when it was set for, by its own
# clock, and when it was seen to expire: `set NAME NANOSECONDS`, `seen NAME NANOSECONDS`.
#
#     perl timers.pl MILLISECONDS FILE
use strict;
use warnings;

my ($due, $path) = @ARGV;
my ($clock_gettime, $create, $settime) = `uname -m` =~ /^x86_64/ ? (228, 283, 286) : (113, 85, 86);
my ($REALTIME, $MONOTONIC, $BOOTTIME) = (0, 1, 7);
my $ABSOLUTE = 1;

sub now {
    my $time = pack 'qq', 0, 0;
    syscall($clock_gettime, $_[0], $time) == 0 or die "clock_gettime: $!";
    my ($seconds, $nanoseconds) = unpack 'qq', $time;
    return $seconds * 1_000_000_000 + $nanoseconds;
}

sub parts { return (int($_[0] / 1_000_000_000), $_[0] % 1_000_000_000) }

my %timers;
open my $file, '>>', $path or die "$path: $!";

sub add {
    my ($name, $clock, $flags, $interval) = @_;
    my $fd = syscall($create, $clock, 0);
    $fd >= 0 or die "timerfd_create: $!";
    my ($now, $value) = (now($clock), $due * 1_000_000);
    my $setting = pack 'qqqq', parts($interval), parts($flags & $ABSOLUTE ? $now + $value : $value);
    syscall($settime, $fd, $flags, $setting, 0) == 0 or die "timerfd_settime: $!";
    $timers{$fd} = { name => $name, clock => $clock };
    syswrite $file, "set $name " . ($now + $value) . "\n";
}

add('absolute', $MONOTONIC, $ABSOLUTE, 0);
add('relative', $MONOTONIC, 0, 0);
add('repeated', $MONOTONIC, $ABSOLUTE, 3_600_000_000_000);
add('suspended', $BOOTTIME, $ABSOLUTE, 0);
add('calendar', $REALTIME, $ABSOLUTE, 0);
while (%timers) {
    my $set = '';
    vec($set, $_, 1) = 1 for keys %timers;
    select $set, undef, undef, undef;
    for my $fd (grep { vec $set, $_, 1 } keys %timers) {
        my $timer = delete $timers{$fd};
        syswrite $file, "seen $timer->{name} " . now($timer->{clock}) . "\n";
    }
}
sleep 3600;
