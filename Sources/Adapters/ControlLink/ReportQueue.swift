import Control

/// Reports that the controller has not taken yet. When it is full, the oldest measurement makes room: the next one will say the same, while the
/// steps of a migration are said once.
package struct ReportQueue {
  private let maximum: Int
  private var reports: [TimedReport] = []
  /// Reports that had to make room.
  package private(set) var dropped = 0

  package init(maximum: Int) { self.maximum = maximum }

  package var isEmpty: Bool { reports.isEmpty }
  package var count: Int { reports.count }

  package mutating func add(_ report: TimedReport) {
    reports.append(report)
    makeRoom()
  }

  /// Takes the oldest out.
  package mutating func takeBatch(_ count: Int) -> [TimedReport] {
    let batch = Array(reports.prefix(count))
    reports.removeFirst(batch.count)
    return batch
  }

  /// A batch that did not arrive goes first again.
  package mutating func putBack(_ batch: [TimedReport]) {
    reports.insert(contentsOf: batch, at: 0)
    makeRoom()
  }

  private mutating func makeRoom() {
    while reports.count > maximum {
      reports.remove(at: reports.firstIndex { $0.report.isMeasurement } ?? 0)
      dropped += 1
    }
  }
}

extension NodeReport {
  fileprivate var isMeasurement: Bool {
    switch self {
    case .measured, .unreachable: true
    case .announced, .moved, .recovered, .stuck, .event: false
    }
  }
}
