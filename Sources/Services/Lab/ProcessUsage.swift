import Foundation

/// What processes have used so far.
struct ProcessUsage: Sendable {
  /// User and system time of all of them, children that have ended included.
  var cpuSeconds = 0.0
  /// The largest of their peaks of resident memory, in octets.
  var peakOctets = 0
  /// Resident now, together.
  var residentOctets = 0
  var descriptors = 0

  init(of processes: [pid_t]) {
    for pid in processes.flatMap({ [$0] + ProcessUsage.children(of: $0) }) {
      var clock = clockid_t()
      var time = timespec()
      if clock_getcpuclockid(pid, &clock) == 0, clock_gettime(clock, &time) == 0 {
        cpuSeconds += Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
      }
      cpuSeconds += ProcessUsage.childrenSeconds(of: pid)
      peakOctets = max(peakOctets, ProcessUsage.memory("VmHWM:", of: pid))
      residentOctets += ProcessUsage.memory("VmRSS:", of: pid)
      descriptors += (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd").count) ?? 0
    }
  }

  /// Those that it has now: a relay may have one for each connection. (proc(5): /proc/PID/task/TID/children)
  private static func children(of pid: pid_t) -> [pid_t] {
    let text = (try? String(contentsOfFile: "/proc/\(pid)/task/\(pid)/children", encoding: .utf8)) ?? ""
    return text.split(separator: " ").compactMap { pid_t($0) }
  }

  /// cutime and cstime, the 16th and 17th fields of /proc/PID/stat (proc(5)); the second is in brackets and may have blanks.
  private static func childrenSeconds(of pid: pid_t) -> Double {
    guard let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8), let bracket = text.lastIndex(of: ")") else {
      return 0
    }
    let fields = text[text.index(after: bracket)...].split(separator: " ")
    guard fields.count > 14, let user = Double(fields[13]), let system = Double(fields[14]) else { return 0 }
    return (user + system) / Double(sysconf(Int32(_SC_CLK_TCK)))
  }

  private static func memory(_ name: String, of pid: pid_t) -> Int {
    guard let text = try? String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8),
      let line = text.split(separator: "\n").first(where: { $0.hasPrefix(name) }),
      let kibibytes = line.split(whereSeparator: { !$0.isNumber }).first.flatMap({ Int($0) })
    else { return 0 }
    return kibibytes << 10
  }
}
