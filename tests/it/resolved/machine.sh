# Boots the real systemd, dbus and systemd-resolved as a machine of its own. Run in fresh mount, network, process, host
# name and IPC namespaces, with an empty folder for the machine's root, a folder with the unpacked packages that it has
# more than this machine, the folder of the binary under test, and a name for its control groups, which whoever started
# it removes. Nothing else of it is seen outside.
set -eu
root=$1 packages=$2 binaries=$3 group=$4
if [ "${5:-}" != inside ]; then
  # Control groups of its own: two machines in one would each wait for the other's processes to end.
  for tree in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ -e "$tree/cgroup.procs" ] || continue
    mkdir "$tree/$group"
    echo 0 > "$tree/$group/cgroup.procs"
  done
  exec unshare -C sh "$0" "$@" inside
fi
mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$root"
cd "$root"
mkdir -p usr etc/systemd/system var/tmp var/log run proc sys dev tmp root old opt/bin
chmod 1777 tmp var/tmp

# The programs of this machine, and those of the packages over them.
mount -t overlay -o "lowerdir=$packages:/usr" programs usr
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$folder"; done
mount --bind "$binaries" opt/bin
cp /etc/ld.so.cache etc/
cat > etc/passwd <<END
root:x:0:0:root:/root:/bin/sh
messagebus:x:100:102::/:/usr/sbin/nologin
systemd-resolve:x:990:990::/:/usr/sbin/nologin
systemd-network:x:991:991::/:/usr/sbin/nologin
nobody:x:65534:65534::/:/usr/sbin/nologin
END
cat > etc/group <<END
root:x:0:
messagebus:x:102:
systemd-journal:x:999:
systemd-resolve:x:990:
systemd-network:x:991:
nogroup:x:65534:
END
printf 'hosts: files resolve [!UNAVAIL=return] dns\npasswd: files\ngroup: files\n' > etc/nsswitch.conf
printf '127.0.0.1 localhost\n' > etc/hosts
printf 'ID=test\n' > etc/os-release
: > etc/machine-id
ln -s ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf

# What would set this machine's kernel, or waits for hardware.
for unit in systemd-sysctl systemd-modules-load systemd-firstboot systemd-timesyncd systemd-udevd systemd-udev-trigger \
  systemd-remount-fs systemd-sysusers systemd-logind systemd-random-seed systemd-hwdb-update; do
  ln -s /dev/null "etc/systemd/system/$unit.service"
done
# As if it was enabled: whoever asks it over the bus while it starts waits for it.
ln -s /usr/lib/systemd/system/systemd-resolved.service etc/systemd/system/dbus-org.freedesktop.resolve1.service
cat > etc/systemd/system/default.target <<END
[Unit]
Requires=basic.target dbus.service systemd-resolved.service
After=basic.target dbus.service systemd-resolved.service
END

mount -t proc proc proc
# What is not of the network is this kernel's, and not the machine's.
mount --bind proc/sys/net proc/sys/net
mount --rbind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
# Not to be written to: so systemd knows that there is no udev to wait for.
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=755 devices dev
for device in null zero full random urandom tty; do : > "dev/$device"; mount --bind "/dev/$device" "dev/$device"; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
: > dev/console

# Control groups as this machine has them: one tree, or the hybrid form.
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
  mount -t cgroup2 cgroup2 sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
  mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
  mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
  mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
fi

# The network: loopback, and a link with a server that knows the other names. Docker's bridge comes later, or never.
ip link set lo up
ip link add up0 type bridge
ip address add 10.99.0.53/24 dev up0
ip link set up0 up

pivot_root . old
umount -l /old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=journal
