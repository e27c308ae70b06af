import Carriers
import Control
import NIOCore
import Relay
import Sockets
import Vocabulary

// The parked first flight: gone at PREPARE, waiting beside the machine's future place when the machine arrives (decision 8).

extension ClientSession {
  /// PREPARE. A path through accelerators can be gone now, up to the one beside the machine's future place; there the first flight waits for the machine.
  func prepare(_ place: Recovery.Place) {
    guard case .accelerated = place.path else { return dropParked("the path is direct") }
    guard driver != nil, !hasEnded, parked?.place != place else { return }
    dropParked("the path has changed")
    earlyMove = nil
    attempts += 1
    let number = attempts
    parked = Parked(number: number, place: place)
    dial(place, answerLimit: ClientSession.parkLimit) { [weak self] result in
      guard let self, let driver = self.driver, self.parked?.number == number, !self.hasEnded else {
        if case .success(let dialled) = result { dialled.carrier.close("nobody waits for it any more") }
        return
      }
      switch result {
      case .success(let dialled):
        self.parked?.carrier = dialled.carrier
        driver.open(dialled.carrier, local: dialled.local, remote: dialled.remote)
        if !driver.park(on: dialled.carrier.id, localAddress: dialled.local) { self.dropParked("another request is out") }
      case .failure(let error):
        self.logger.debug("no first flight parked for \(place.agent): \(describe(error))")
        self.parked = nil
      }
    }
  }

  func dropParked(_ reason: String) {
    guard let dropped = parked else { return }
    parked = nil
    guard let carrier = dropped.carrier else { return }
    driver?.unpark()
    // A FIN would reach the far accelerator as the end of what is sent, and the flight would still be delivered; a RST takes it back.
    if let channel = carrier.channel { SocketRelay.abort(channel) } else { carrier.close(reason) }
  }

  /// GO, and a first flight is there already, or has done it already. False: the client has to go itself.
  func takeParked(at place: Recovery.Place) -> Bool {
    if let move = earlyMove, move.place == place, activeCarrier != nil, let go = pendingGo {
      report(.moved(machine: machine, epoch: go.epoch, goToConfirmedMilliseconds: -milliseconds(from: move.at, to: go.taken)))
      pendingGo = nil
      earlyMove = nil
      return true
    }
    guard let parked, parked.place == place, let carrier = parked.carrier else {
      dropParked("GO leads elsewhere")
      return false
    }
    attempts += 1
    attempt = Attempt(number: attempts, place: place, go: pendingGo, carrier: carrier.id)
    limitMove(of: carrier)
    return true
  }

  func noteEarlyMove(to place: Recovery.Place) {
    give(upOn: "the parked first flight was quicker")
    recovery.succeeded(at: place)
    earlyMove = (place, .now())
    logger.info("session with machine \(machine) has moved by its parked first flight", metadata: ["agent": "\(place.agent)"])
    report(.event("session with machine \(machine) moved to \(place.agent) by its parked first flight"))
  }
}
