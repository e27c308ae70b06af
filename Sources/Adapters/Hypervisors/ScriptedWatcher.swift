import Control
import Synchronization
import Vocabulary

/// The double of a watcher: it says what a test tells it to, and answers from what the test has set.
package final class ScriptedWatcher: HypervisorWatcher {
  private struct Script {
    var guest: GuestState?
    var phase: MigrationPhase?
    var figures = MigrationFigures()
    var questions: [HypervisorQuestion] = []
  }

  package let site: SiteID
  package let notices: AsyncStream<HypervisorNotice>
  private let sink: AsyncStream<HypervisorNotice>.Continuation
  private let script: Mutex<Script>

  /// `guest` is the answer to `.guest`; nil for a hypervisor that is not there.
  package init(site: SiteID, guest: GuestState? = nil) {
    self.site = site
    (notices, sink) = AsyncStream.makeStream()
    script = Mutex(Script(guest: guest))
  }

  // MARK: What the test does

  /// Says these, in this order, and answers accordingly from now on.
  package func say(_ events: HypervisorEvent..., stamp: Int64? = nil) {
    script.withLock { script in
      for event in events {
        switch event {
        case .stopped: script.guest = .halted("paused")
        case .resumed: script.guest = .running
        case .guest(let guest): script.guest = guest
        case .migration(let phase): script.phase = phase
        case .gone: script.guest = nil
        case .connected, .lost, .figures, .unanswered: break
        }
        sink.yield(HypervisorNotice(site: site, event: event, stampMicroseconds: stamp))
      }
    }
  }

  /// Sets what is answered from now on without saying anything.
  package func set(guest: GuestState?) { script.withLock { $0.guest = guest } }
  package func set(figures: MigrationFigures) { script.withLock { $0.figures = figures } }

  /// What was asked so far.
  package var questions: [HypervisorQuestion] { script.withLock { $0.questions } }

  // MARK: HypervisorWatcher

  package func ask(_ question: HypervisorQuestion) {
    script.withLock { script in
      script.questions.append(question)
      let event: HypervisorEvent
      switch (question, script.guest) {
      case (_, nil): event = .unanswered(question, reason: "there is no connection to the hypervisor")
      case (.guest, .some(let guest)): event = .guest(guest)
      case (.migration, .some): event = .figures(script.phase, script.figures)
      }
      sink.yield(HypervisorNotice(site: site, event: event))
    }
  }

  package func run() async {
    let guest = script.withLock { $0.guest }
    say(guest == nil ? .gone(reason: "it was not started") : .connected)
    let (never, end) = AsyncStream.makeStream(of: Never.self)
    await withTaskCancellationHandler {
      for await _ in never {}
    } onCancel: {
      end.finish()
    }
    sink.finish()
  }
}
