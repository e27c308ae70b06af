import Carriers
import Control
import ControlLink
import NIOCore
import SCTP
import Sockets
import Vocabulary

// What a session does when nobody has told it where to go, or somebody has who is not the controller: it tries every address that it knows, follows its own
// network, and takes GO from the agent.

extension ClientSession {
  /// Connects to the first of several places that answers: the likeliest is dialled at once, the others one after another while it does not.
  ///
  /// At most `Recovery.maximumAnnounced` + 2 places, each for `dialLimit`.
  /// - Parameter isWanted: false once a newer try has taken this one's place; nothing is reported then.
  func race(
    _ places: [Recovery.Place], while isWanted: @escaping (ClientSession) -> Bool,
    then: @escaping (Result<(Dialled, Recovery.Place), any Error>) -> Void
  ) {
    let race = Race(places, of: self, while: isWanted, then: then)
    race.dialNext()
  }

  private final class Race {
    private weak var session: ClientSession?
    private var waiting: ArraySlice<Recovery.Place>
    private let isWanted: (ClientSession) -> Bool
    private let then: (Result<(Dialled, Recovery.Place), any Error>) -> Void
    private var underWay = 0
    private var isOver = false
    private var timer: Scheduled<Void>?

    init(
      _ places: [Recovery.Place], of session: ClientSession, while isWanted: @escaping (ClientSession) -> Bool,
      then: @escaping (Result<(Dialled, Recovery.Place), any Error>) -> Void
    ) {
      self.session = session
      waiting = places[...]
      self.isWanted = isWanted
      self.then = then
    }

    private var isAlive: Bool { !isOver && session.map { !$0.hasEnded && isWanted($0) } ?? false }

    func dialNext() {
      timer?.cancel()
      guard isAlive, let session, let place = waiting.popFirst() else { return }
      underWay += 1
      if !waiting.isEmpty {
        timer = session.loop.assumeIsolated().scheduleTask(in: .nanoseconds(Recovery.stagger.nanoseconds)) { self.dialNext() }
      }
      session.dial(place) { self.finish($0, at: place) }
    }

    private func finish(_ result: Result<Dialled, any Error>, at place: Recovery.Place) {
      underWay -= 1
      switch result {
      case .success(let dialled):
        guard isAlive else { return dialled.carrier.close("another try was quicker") }
        isOver = true
        timer?.cancel()
        then(.success((dialled, place)))
      case .failure(let error):
        guard isAlive else { return }
        if waiting.isEmpty, underWay == 0 {
          isOver = true
          then(.failure(error))
        } else {
          dialNext()
        }
      }
    }
  }

  // MARK: Its own network

  /// The machine that the client runs on has other addresses than before; these are not there any more.
  func addressesChanged(gone: Set<IPAddress>) {
    guard !hasEnded else { return }
    func isGone(_ carrier: CarrierID) -> Bool { driver?.localAddress(of: carrier).map(gone.contains) ?? false }
    recovery.forgetFailures()
    let parkedPlace = parked.flatMap { parked in parked.carrier.map { isGone($0.id) } ?? true ? parked.place : nil }
    let wasShifting = attempt?.isShift == true
    if parkedPlace != nil { dropParked("its address is gone") }
    if let carrier = activeCarrier, isGone(carrier) {
      logger.info("this end of the carrier to machine \(machine) is gone: dialling from another address")
      driver?.close(carrier, "its address is gone")  // `lost` goes on from there
      activeCarrier = nil
    }
    if let parkedPlace, !wasShifting { prepare(parkedPlace) }
    guard !isFrozen else { return }  // GO, ROLL BACK or the limit of FREEZE goes on
    if isReopening {
      if driver == nil { reopen() }
    } else if activeCarrier == nil {
      tryNow()
    }
  }

  // MARK: The other ways of GO

  /// What the agent says over the carrier in use.
  func hear(_ message: SessionMessage) {
    switch message.kind {
    case .go:
      guard let token = GoToken(octets: message.octets) else {
        return logger.warning("the agent of machine \(machine) passed a GO on that is none")
      }
      take(token, by: .agent)
    case .identity: break  // clients say it, and hear it from nobody
    case .codec: break  // the driver's own
    }
  }

  // MARK: Another path to the same place

  /// GO names another path to where the machine is. The carrier in use goes on until the agent has answered on the new one: nothing is waited for, and nothing lost
  /// if the path turns out not to work.
  func shift(to place: Recovery.Place) {
    guard driver != nil, !hasEnded else { return }
    dropParked("the path has changed")
    earlyMove = nil
    attempts += 1
    let number = attempts
    attempt = Attempt(number: number, place: place, go: pendingGo, isShift: true)
    dial(place) { [weak self] result in
      guard let self else { return }
      guard self.attempt?.number == number, !self.hasEnded else {
        if case .success(let dialled) = result { dialled.carrier.close("a newer try has taken its place") }
        return
      }
      switch result {
      case .success(let dialled): self.shift(to: dialled, at: place)
      case .failure(let error):
        self.give(upOn: describe(error))
        self.stay(describe(error), notAt: place)
      }
    }
  }

  private func shift(to dialled: Dialled, at place: Recovery.Place) {
    guard let driver, let number = attempt?.number else { return }
    let id = dialled.carrier.id
    attempt?.carrier = id
    limitMove(of: dialled.carrier)
    driver.open(dialled.carrier, local: dialled.local, remote: dialled.remote)
    if activeCarrier != nil, driver.park(on: id, localAddress: dialled.local) {
      parked = Parked(number: number, place: place, carrier: dialled.carrier)
    } else {  // the old carrier has gone, or asks for something else: a move as any other
      attempt?.isShift = false
      driver.move(to: id, localAddress: dialled.local, peerAddress: place.agent.address)
    }
  }

  /// The path that GO named does not work; the carrier in use does.
  func stay(_ reason: String, notAt place: Recovery.Place) {
    if activeCarrier == nil {
      recovery.failed()
      return tryAgain()
    }
    _ = recovery.turnBack(from: place.agent)
    guard let go = pendingGo else { return }
    pendingGo = nil
    logger.warning("the path to machine \(machine) that GO named does not work: \(reason); the session stays where it is")
    report(.stuck(machine: machine, epoch: go.epoch, reason: "its path does not work: \(reason)"))
  }

  // MARK: ROLL BACK

  /// The machine stays where it was: also a session that has gone already, or is on its way, returns.
  func rollBack(_ agent: Endpoint) {
    recovery.withdraw(agent.address)
    prepared = nil
    hasStopped = false
    dropParked("the machine stays where it was")
    unfreeze()
    if recovery.turnBack(from: agent) {
      logger.info("ROLL BACK: machine \(machine) is at \(recovery.destination.agent)")
      pendingGo = nil
      earlyMove = nil
      give(upOn: "the machine stays where it was")
      tryNow()
    } else if activeCarrier == nil, attempt == nil {
      tryAgain()
    }
  }
}
