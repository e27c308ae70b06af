import NIOCore

/// What the enrolment endpoint, and those who ask it, will hold and wait for.
package enum EnrolmentLimits {
  /// A request for a certificate is about 500 octets of PEM, a token about 90: 16 KiB leave room for names and headers, and no more.
  package static let requestOctets = 16 << 10
}
