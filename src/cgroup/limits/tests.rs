use std::fs;

use super::*;

fn one(key: Key, text: &str) -> Limit {
    let limits = parse(key, text).unwrap();
    assert_eq!(limits.len(), 1, "{text}");
    limits.into_iter().next().unwrap()
}

#[test]
fn values_are_those_of_the_kernel_and_of_systemd() {
    for (name, text, display, setting) in [
        ("memory.max", "2G", "memory.max=2G", "MemoryMax=2G"),
        ("memory.max", "max", "memory.max=max", "MemoryMax=infinity"),
        ("memory.high", "5.5K", "memory.high=5632", "MemoryHigh=5632"),
        ("memory.swap.max", "0", "memory.swap.max=0", "MemorySwapMax=0"),
        ("memory.max", "50%", "memory.max=50%", "MemoryMax=50%"),
        ("cpu.max", "150%", "cpu.max=150%", "CPUQuota=150%"),
        ("cpu.max", "33.3333%", "cpu.max=33.3333%", "CPUQuota=33.3333%"),
        ("cpu.max", "max", "cpu.max=max", "CPUQuota="),
        ("cpu.weight", "10000", "cpu.weight=10000", "CPUWeight=10000"),
        ("pids.max", "500", "pids.max=500", "TasksMax=500"),
        ("pids.max", "infinity", "pids.max=max", "TasksMax=infinity"),
        ("io.max", "8:0 rbps=1M", "io.max=/dev/block/8:0 rbps=1M", "IOReadBandwidthMax=/dev/block/8:0 1M"),
        ("io.max", "8:0,wiops=120", "io.max=/dev/block/8:0 wiops=120", "IOWriteIOPSMax=/dev/block/8:0 120"),
        ("io.weight", "1", "io.weight=1", "IOWeight=1"),
        ("cpuset.cpus", "0-1, 4", "cpuset.cpus=0-1,4", "AllowedCPUs=0-1,4"),
        ("cpuset.mems", "all", "cpuset.mems=all", "AllowedMemoryNodes="),
    ] {
        let limit = one(Key::of_file(name).unwrap(), text);
        assert_eq!(limit.to_string(), display);
        let (property, value) = limit.setting();
        assert_eq!(format!("{property}={value}"), setting);
        // systemd's words are read back as the same.
        if property != "CPUQuota" || !value.is_empty() {
            assert_eq!(one(Key::of_property(property).unwrap(), &value), limit, "{setting}");
        }
    }
    assert_eq!(one(Key::Cpus, "1.5"), Limit::CpuShare(Some(1_500_000)));
    assert_eq!(one(Key::Cpus, "25%"), Limit::CpuShare(Some(250_000)));
    assert_eq!(one(Key::Cpus, "max"), Limit::CpuShare(None));
    assert_eq!(
        parse(Key::CpuMax, "20000 50000").unwrap(),
        [Limit::CpuShare(Some(400_000)), Limit::CpuPeriod(50_000)]
    );
    assert_eq!(one(Key::CpuPeriod, "50ms"), Limit::CpuPeriod(50_000));
    assert_eq!(parse(Key::IoMax, "8:0 max").unwrap().len(), 4);
}

#[test]
fn what_is_out_of_range_hears_the_range() {
    for (key, text, reason) in [
        (Key::MemoryMax, "12", "'12' is out of range: 4K to just below 8E, or 'max'"),
        (Key::MemoryMax, "99999999E", "'99999999E' is out of range: 4K to just below 8E, or 'max'"),
        (Key::MemoryMax, "8E", "'8E' is out of range: 4K to just below 8E, or 'max'"),
        (Key::MemoryMax, "101%", "'101%' is not a percentage of the host's memory from 1% to 100%"),
        (Key::MemoryMax, "-1", "'-1' is not a size such as 512M or 2G"),
        (Key::MemoryMax, "2X", "'2X' is not a size"),
        (Key::MemoryMax, "", "'' is not a size"),
        (Key::CpuMax, "0.5%", "'0.5%' is out of range: 1% (a hundredth of one CPU) to 819200%, or 'max'"),
        (Key::CpuMax, "150", "'150' is not a percentage of one CPU such as 150%"),
        (Key::CpuMax, "500 100000", "'500' is out of range: 1000 to 819200000"),
        (Key::CpuMax, "1000 2000000", "'2000000' is out of range: 1000 to 1000000"),
        (Key::Cpus, "0.001", "'0.001' is out of range: 0.01 to 8192 CPUs, or 'max'"),
        (Key::Cpus, "two", "'two' is not a number of CPUs such as 1.5"),
        (Key::CpuPeriod, "2s", "2000000 us is out of range: 1ms to 1s"),
        (Key::CpuWeight, "0", "'0' is out of range: 1 to 10000"),
        (Key::CpuWeight, "10001", "'10001' is out of range: 1 to 10000"),
        (Key::PidsMax, "0", "'0' is out of range: 1 to 4194304"),
        (Key::PidsMax, "99999999999999999999", "out of range: 1 to 4194304"),
        (Key::PidsMax, "+5", "'+5' is not a number from 1 to 4194304"),
        (Key::IoWeight, "many", "'many' is not a number from 1 to 10000"),
        (Key::IoMax, "", "not a device and some of rbps="),
        (Key::IoMax, "8:0", "not a device and some of rbps="),
        (Key::IoMax, "8:0 rbps", "'rbps': not a device and some of"),
        (Key::IoMax, "8:0 speed=1", "'speed' is not one of rbps, wbps, riops, wiops"),
        (Key::IoMax, "8:0 rbps=0", "'0' is out of range: at least 1 a second, or 'max'"),
        (Key::IoMax, "8:0 riops=1M", "'1M' is not a number a second, or 'max'"),
        (Key::IoMax, "vda rbps=1", "'vda' is neither an absolute path nor a device's numbers"),
        (Key::IoMax, "/dev/osier-none rbps=1", "'/dev/osier-none': no such file or directory"),
        (Key::IoMax, "/proc/version rbps=1", "'/proc/version' is not on a block device"),
        (Key::Io(Rate::ReadBytes), "8:0", "not a device and a number"),
        (Key::CpusetCpus, "3-1", "'3-1' is not a list of numbers and ranges such as 0-3,8"),
        (Key::CpusetCpus, "0-8192", "'8192' is out of range: 0 to 8191"),
        (Key::CpusetMems, "one", "'one' is not a list"),
    ] {
        let refused = parse(key, text).expect_err(text);
        assert!(refused.contains(reason), "{text}: {refused}");
    }
}

#[test]
fn the_later_one_holds() {
    let mut limits = Vec::new();
    for (key, text) in [
        (Key::MemoryMax, "1G"),
        (Key::IoMax, "8:0 rbps=1M wbps=2M"),
        (Key::MemoryHigh, "1G"),
        (Key::MemoryMax, "2G"),
        (Key::IoMax, "8:16 rbps=4M"),
        (Key::IoMax, "8:0 rbps=3M"),
    ] {
        add(&mut limits, parse(key, text).unwrap());
    }
    let texts: Vec<_> = limits.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "io.max=/dev/block/8:0 wbps=2M",
            "memory.high=1G",
            "memory.max=2G",
            "io.max=/dev/block/8:16 rbps=4M",
            "io.max=/dev/block/8:0 rbps=3M",
        ]
    );
}

#[test]
fn a_limit_knows_its_controller() {
    let controllers: Vec<_> = Key::files()
        .map(|(name, key)| {
            let text = if name == "io.max" { "8:0 max" } else { "max" };
            let text = if ["cpu.weight", "io.weight", "cpuset.cpus", "cpuset.mems"].contains(&name) {
                "1"
            } else {
                text
            };
            let limits = parse(key, text).unwrap();
            assert!(limits.iter().all(|limit| limit.file() == name), "{name}");
            limits[0].controller()
        })
        .collect();
    assert_eq!(
        controllers,
        ["memory", "memory", "memory", "cpu", "cpu", "pids", "io", "io", "cpuset", "cpuset"]
    );
}

/// A plain directory is enough of a cgroup for what is written where; what the kernel makes of it is the vm tier's.
#[test]
fn limits_are_written_all_or_none() {
    let directory = std::env::temp_dir().join(format!("osier-limits-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let file = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    for (name, text) in [
        ("memory.max", "max\n"),
        ("cpu.max", "max 100000\n"),
        ("pids.max", "77\n"),
        ("io.max", "8:0 rbps=5 wbps=max riops=max wiops=max\n"),
        ("cpuset.cpus", "\n"),
    ] {
        fs::write(directory.join(name), text).unwrap();
    }
    let mut limits = Vec::new();
    for (key, text) in [
        (Key::MemoryMax, "50%"),
        (Key::CpuMax, "10000 30000"),
        (Key::PidsMax, "500"),
        (Key::IoMax, "8:0 rbps=1M"),
        (Key::CpusetCpus, "0-1"),
    ] {
        add(&mut limits, parse(key, text).unwrap());
    }
    write(&limits, &directory, 1000).unwrap();
    assert_eq!(file("memory.max"), "500");
    assert_eq!(file("cpu.max"), "10000 30000");
    assert_eq!(file("pids.max"), "500");
    assert_eq!(file("io.max"), "8:0 rbps=1048576");
    assert_eq!(file("cpuset.cpus"), "0-1\n");

    fs::write(directory.join("io.max"), "8:0 rbps=1048576 wbps=max riops=max wiops=max\n").unwrap();
    let exact: Vec<_> =
        limits.iter().filter(|limit| !matches!(limit, Limit::MemoryMax(_))).cloned().collect();
    assert_eq!(await_held(&exact, &directory), Ok(()));
    let before: Vec<_> = held(&exact, &directory).iter().map(ToString::to_string).collect();
    for text in ["cpu.max=33.3333%", "pids.max=500", "io.max=/dev/block/8:0 rbps=1M", "cpuset.cpus=0-1"] {
        assert!(before.iter().any(|found| found == text), "{text}: {before:?}");
    }
    let other = [Limit::PidsMax(Some(500)), Limit::PidsMax(None)];
    assert_eq!(await_held(&other, &directory), Err(&other[1]));

    let mut more = vec![Limit::PidsMax(None), Limit::CpuShare(None), Limit::Cpus(String::new())];
    more.push(Limit::MemoryHigh(Amount::Bytes(4096)));
    let refused = write(&more, &directory, 1000).unwrap_err();
    assert_eq!(refused.limit, Limit::MemoryHigh(Amount::Bytes(4096)));
    assert_eq!(refused.cause.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(file("pids.max"), "500", "put back");
    assert_eq!(file("cpu.max"), "10000 30000", "put back");
    assert_eq!(file("cpuset.cpus"), "0-1\n", "put back");
    fs::remove_dir_all(&directory).unwrap();
}
