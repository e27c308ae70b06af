import NIOCore
import SCTP
import Vocabulary

/// SCTP as messages, whatever carries its packets: what a trial needs of it. All calls and callbacks are on one event loop.
package protocol MessageTransport: AnyObject {
  /// Everything that associations say, but for packets.
  var onEvent: (AssociationID, Effect) -> Void { get set }
  var onAccepted: (AssociationID, String) -> Void { get set }
  /// A handshake that was turned away, or a socket that complains, in words.
  var onTrouble: (String) -> Void { get set }

  func association(_ id: AssociationID) -> SessionAssociation?
  /// False: the send buffer is full; `.sendSpace` will come.
  func send(
    _ payload: ByteBuffer, stream: StreamID, protocolIdentifier: UInt32, isUnordered: Bool, reliability: Reliability, endOfWrite: Bool,
    on id: AssociationID
  ) -> Bool
  /// Whatever else an association can be told; it is given the time.
  func tell(_ id: AssociationID, _ body: (inout SessionAssociation, Instant) -> Void)
  /// Packets may come and go at this address of ours from now on.
  func open(_ address: IPAddress) -> EventLoopFuture<Void>
  /// Our end goes to `local`, or anywhere if nil, and asks the peer for its data there; the peer is at `remote`, or where it was if nil.
  func move(_ id: AssociationID, from local: IPAddress?, to remote: Endpoint?) -> EventLoopFuture<Void>
  /// The ways that packets take now, in words.
  func ways(of id: AssociationID) -> [String]
  func close()
}

extension MessageTransport {
  package func shutdown(_ id: AssociationID) { tell(id) { $0.shutdown(at: $1) } }
  package func abort(_ id: AssociationID, reason: String) { tell(id) { $0.abort(reason: reason, at: $1) } }
}
