// What stands in the guest: its init, and the configuration of its FTP server.
extension GuestImage {
  /// Said on the serial line when the guest's network is up and its services have been started.
  static let readyLine = "LAB READY"
  /// Said after the command `mount`: the NAS's disk is where the FTP server looks.
  static let mountedLine = "LAB MOUNTED"

  /// Said, with what, when the guest cannot be what it should.
  static let failure = "LAB FAILED"

  static let vsftpdConfiguration = """
    listen=YES
    background=NO
    anonymous_enable=YES
    local_enable=NO
    no_anon_password=YES
    anon_root=/srv/ftp
    write_enable=NO
    seccomp_sandbox=NO
    isolate=NO
    isolate_network=NO
    secure_chroot_dir=/usr/share/empty
    pasv_min_port=30000
    pasv_max_port=30100
    xferlog_enable=NO
    use_localtime=NO

    """

  /// One network card with both addresses; the source address decides the way out, so that each works at its own site only. The disk is mounted when the lab says
  /// so over the serial line, and not before: a saved guest must not remember the contents of another run's disk.
  static func startScript(modules: [String], agentArguments: [String]) -> String {
    let center1 = Topology.guestAtCenter1
    let center2 = Topology.guestAtCenter2
    return """
      #!/bin/busybox sh
      /bin/busybox mount -t proc proc /proc
      /bin/busybox mount -t sysfs sysfs /sys
      /bin/busybox mount -t devtmpfs dev /dev
      /bin/busybox --install -s /bin
      export PATH=/bin:/usr/sbin
      mount -t tmpfs tmpfs /run
      for m in \(modules.joined(separator: " ")); do insmod /m/$m.ko || echo "\(failure): module $m" >/dev/console; done
      hostname vm
      ip link set lo up
      ip link set eth0 up
      ip addr add \(center1)/24 dev eth0
      ip addr add \(center2)/24 dev eth0
      ip rule add from \(center1) table 101
      ip rule add from \(center2) table 102
      ip route add 10.1.0.0/24 dev eth0 src \(center1) table 101
      ip route add default via 10.1.0.1 dev eth0 src \(center1) table 101
      ip route add 10.2.0.0/24 dev eth0 src \(center2) table 102
      ip route add default via 10.2.0.1 dev eth0 src \(center2) table 102
      ip route add default via 10.1.0.1 dev eth0 src \(center1)
      ip route add default via 10.2.0.1 dev eth0 src \(center2) metric 100
      for p in vsftpd longhaul-agent; do [ -x /usr/sbin/$p ] || echo "\(failure): no $p, the guest's memory is too small" >/dev/console; done
      stty -F /dev/ttyS0 -echo
      vsftpd /etc/vsftpd.conf >/dev/console 2>&1 &
      longhaul-agent \(agentArguments.joined(separator: " ")) >/dev/console 2>&1 &
      echo "\(readyLine)" >/dev/console
      while :; do
        while read -r line; do
          case "$line" in
          mount) mount -t ext4 -o ro,noload /dev/vda /srv/ftp && echo "\(mountedLine)" >/dev/console || echo "\(failure): mount" >/dev/console ;;
          state) { uptime; free; ps; } >/dev/console ;;
          esac
        done </dev/ttyS0
      done

      """
  }
}
