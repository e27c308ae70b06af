import NIOCore

/// What the enrolment endpoint, and those who ask it, will hold and wait for.
package enum EnrolmentLimits {
  /// A request is about 600 octets of PEM in JSON and a token of 93: 16 KiB leave room, and no more.
  package static let requestOctets = 16 << 10
  /// A certificate and a CA of 1 KiB each, and a full list of revocations of 52 KiB.
  package static let answerOctets = 128 << 10
  /// Each with its TLS (about 50 KiB) and a request: 64 x 66 KiB = 4 MiB. A thousand machines that enrol at once come again.
  package static let connections = 64
  /// A connection carries one request and ends: 10 s of handshake at the worst, and as much for the rest.
  package static let connectionLimit = TimeAmount.seconds(20)
  /// A node waits a little longer than the endpoint does, so that it is the endpoint that says what was wrong.
  package static let askLimit = TimeAmount.seconds(25)
  package static let connectLimit = TimeAmount.seconds(5)
  /// A revocation reaches the nodes that fetch by themselves within so long, plus what `IdentityKeeper` takes. One node asks 144 times a day; 10,000
  /// nodes ask 17 times a second, each a TLS handshake of 0.7 ms of CPU at this end (measured).
  package static let upkeepInterval = Duration.seconds(600)
}
