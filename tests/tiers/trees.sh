# Sourced, after cache.sh: the trees and the disk that the tiers run on, each made once. `$osier` is the program.

# A tree from images/NAME.toml.
tree() { # NAME
    cached "$1" "images/$1.toml" -- build_tree "$1"
}

# One for each init that Debian packages, and the older releases that machines are made of.
inits=(debian-12 debian-11 sysvinit openrc runit busybox s6 finit)

# Fills DIRECTORY with links, each called as its recipe. All at the same time: it is the mirror that is waited for.
trees() { # DIRECTORY NAME...
    local directory=$1 name builds=() build
    shift
    for name; do
        ( path=$(tree "$name") && ln -s "$path" "$directory/$name" ) &
        builds+=($!)
    done
    for build in "${builds[@]}"; do wait "$build"; done
}

build_tree() { # NAME PATH
    # No initial RAM disk for a kernel package: the vm tier boots without one.
    INITRD=No "$osier" image build "./images/$1.toml" --to "$2"
}

# A directory with `vmlinuz` and `root.ext4`: Debian with a kernel of its own and the Debian tree for nested machines.
vm() {
    cached vm images/{vm,debian}.toml tests/tiers/{trees.sh,osier-tests.service} -- build_vm
}

build_vm() { # PATH
    local debian
    debian=$(tree debian)
    mkdir "$1"
    build_tree vm "$1/tree"
    cp "$1"/tree/boot/vmlinuz-* "$1/vmlinuz"
    rm -rf "$1"/tree/boot/*
    mkdir -p "$1/tree/var/lib/machines"
    cp -a "$debian" "$1/tree/var/lib/machines/debian"
    install -m 644 tests/tiers/osier-tests.service "$1/tree/etc/systemd/system/"
    mke2fs -q -t ext4 -O ^has_journal -d "$1/tree" "$1/root.ext4" 3G >/dev/null
    rm -rf "$1/tree"
}
