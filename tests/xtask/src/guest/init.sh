#!/bin/busybox sh
# The first program of the guest: sees to the machine's files, and goes on with the suites among them.
b=/bin/busybox
fail() {
    echo "the guest did not come up: $*" >/dev/ttyS1
    $b poweroff -f
}
$b mount -t proc proc /proc && $b mount -t sysfs sysfs /sys && $b mount -t devtmpfs dev /dev || fail mounting
for module in /modules/*.ko; do
    $b insmod "$module" || fail "loading $module"
done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=524288,cache=loose machine /root || fail "the machine's files"
# What has to be written to is the guest's own. The tests may be below what is covered by that.
$b mount -t tmpfs tmpfs /root/run || fail "mounting /run"
$b cp /suites.sh /rows /root/run/
$b mkdir /root/run/tests
while read -r name path; do
    $b cp "/root$path" "/root/run/tests/$name" && $b chmod 755 "/root/run/tests/$name" || fail "reading $path"
done </binaries
for folder in /root/tmp /root/var/tmp; do
    $b mount -t tmpfs -o mode=1777 tmpfs $folder || fail "mounting $folder"
done
$b mkdir /dev/shm /dev/pts
for folder in proc sys dev; do
    $b mount --move /$folder /root/$folder || fail "moving /$folder"
done
$b mount -t tmpfs -o mode=1777 tmpfs /root/dev/shm && $b mount -t devpts devpts /root/dev/pts || fail mounting
$b ip link set lo up
exec $b switch_root /root /bin/bash /run/suites.sh
