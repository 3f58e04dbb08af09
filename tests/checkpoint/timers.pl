# Runs in a machine and sets one timer of each kind, due in so many milliseconds; writes down of each when it was set for, by its own
# clock, and when it was seen to expire: `set NAME NANOSECONDS`, `seen NAME NANOSECONDS`. Those with a short interval were to expire
# once more, `set NAME-again …`, a second later.
#
#     perl timers.pl MILLISECONDS FILE
use strict;
use warnings;

my ($due, $path) = @ARGV;
my ($clock_gettime, $create, $settime, $timer_create, $timer_settime, $setitimer) =
    `uname -m` =~ /^x86_64/ ? (228, 283, 286, 222, 223, 38) : (113, 85, 86, 107, 110, 103);
my ($REALTIME, $MONOTONIC, $BOOTTIME) = (0, 1, 7);
my $ABSOLUTE = 1;
my $SECOND = 1_000_000_000;
my ($ITIMER_REAL, $SIGALRM) = (0, 14);

sub now {
    my $time = pack 'qq', 0, 0;
    syscall($clock_gettime, $_[0], $time) == 0 or die "clock_gettime: $!";
    my ($seconds, $nanoseconds) = unpack 'qq', $time;
    return $seconds * $SECOND + $nanoseconds;
}

sub parts { return (int($_[0] / $SECOND), $_[0] % $SECOND) }

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

# Of a process of its own, which is sent a signal.
sub add_signalling {
    my ($name, $clock, $interval, $set) = @_;
    defined(my $child = fork) or die "fork: $!";
    return if $child;
    my @seen = $interval ? ($name, "$name-again") : ($name);
    $SIG{ALRM} = sub {
        my $expired = shift @seen or return;
        syswrite $file, "seen $expired " . now($clock) . "\n";
    };
    my ($now, $value) = (now($clock), $due * 1_000_000);
    $set->($now, $value);
    syswrite $file, "set $name " . ($now + $value) . "\n";
    syswrite $file, "set $name-again " . ($now + $value + $interval) . "\n" if $interval;
    sleep 3600 while 1;
}

# timer_create(2) with SIGEV_SIGNAL.
sub add_posix {
    my ($name, $clock, $flags, $interval, $measured) = @_;
    add_signalling($name, $measured // $clock, $interval, sub {
        my ($now, $value) = @_;
        my ($event, $timer) = (pack('qii x48', 0, $SIGALRM, 0), pack('i', -1));
        syscall($timer_create, $clock, $event, $timer) == 0 or die "timer_create: $!";
        my $setting = pack 'qqqq', parts($interval), parts($flags & $ABSOLUTE ? $now + $value : $value);
        syscall($timer_settime, unpack('i', $timer), $flags, $setting, 0) == 0 or die "timer_settime: $!";
    });
}

sub add_itimer {
    my ($name, $interval) = @_;
    add_signalling($name, $MONOTONIC, $interval, sub {
        my (undef, $value) = @_;
        my ($seconds, $nanoseconds) = parts($value);
        my $setting = pack 'qqqq', parts($interval), $seconds, int($nanoseconds / 1000);
        syscall($setitimer, $ITIMER_REAL, $setting, 0) == 0 or die "setitimer: $!";
        alarm 0 if $name eq 'unset';
    });
}

add_posix('posix-absolute', $MONOTONIC, $ABSOLUTE, 0);
add_posix('posix-relative', $MONOTONIC, 0, 0);
add_posix('posix-repeated', $MONOTONIC, $ABSOLUTE, $SECOND);
add_posix('posix-suspended', $BOOTTIME, $ABSOLUTE, 0);
# A length, which is the same by all clocks.
add_posix('posix-length', $REALTIME, 0, 0, $MONOTONIC);
add_itimer('alarm', 0);
add_itimer('alarm-repeated', $SECOND);
add_itimer('unset', 0);
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
