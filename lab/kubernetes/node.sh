#!/bin/bash
# A node of the lab: a process tree with network, mounts, pids, IPC, host name and cgroups of its own. Called twice:
#   node.sh enter   outside: joins the node's cgroups, then becomes `unshare`, whose child is
#   node.sh init    PID 1 of the node. Everything that it starts dies with it.
# The lab sets: LAB_NODE (host name), LAB_FOLDER (the node's state), LAB_NETNS, LAB_GROUP (name of its cgroups),
# LAB_CONTROLLERS, and writes $LAB_FOLDER/programs: a name and a command on each line, no argument with a space in it.
set -euo pipefail

enter() {
    local controller
    for controller in $LAB_CONTROLLERS; do
        echo $$ > "/sys/fs/cgroup/$controller/$LAB_GROUP/cgroup.procs"
    done
    exec nsenter --net="$LAB_NETNS" unshare --mount --pid --fork --kill-child --ipc --uts --cgroup --mount-proc \
        "$BASH" "$0" init
}

mounts() {
    local controller options folder
    hostname "$LAB_NODE"
    # Shared within the node: volumes that a pod mounts must be seen by the kubelet.
    mount --make-rshared /
    mount -t sysfs sysfs /sys
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for controller in $LAB_CONTROLLERS; do
        mkdir "/sys/fs/cgroup/$controller"
        options=$controller
        [ "$controller" = systemd ] && options=none,name=systemd
        mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$controller"
    done
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -p /run/lock /run/netns
    for folder in lib/kubelet lib/containerd lib/cni log/pods log/containers; do
        mount --bind "$LAB_FOLDER/var/$folder" "/var/$folder"
    done
    # The node's own name must resolve, here and in pods that use its network.
    mount --bind "$LAB_FOLDER/hosts" /etc/hosts
}

network() {
    local setting
    for setting in ip_forward=1 conf/all/rp_filter=0 conf/default/rp_filter=0; do
        echo "${setting#*=}" > "/proc/sys/net/ipv4/${setting%=*}"
    done
    echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
}

# Starts a program, and again whenever it ends.
supervise() {
    local name=$1
    shift
    while :; do
        "$@" >> "$LAB_FOLDER/log/$name.log" 2>&1 < /dev/null || true
        echo "node.sh: $name has ended; starting it again" >> "$LAB_FOLDER/log/$name.log"
        sleep 0.5
    done
}

init() {
    local name command
    trap 'exit 0' TERM INT
    mounts
    network
    while read -r name command; do
        # shellcheck disable=SC2086 # the command's words are its arguments
        supervise "$name" $command &
    done < "$LAB_FOLDER/programs"
    # PID 1 buries orphans; bash does so while it waits.
    while :; do
        sleep 3600 &
        wait $! || true
    done
}

"$1"
