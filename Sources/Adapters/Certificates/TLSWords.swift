import NIOSSL

/// What TLS complains of, in words for a person. BoringSSL names an alert that came in the text of its error and nowhere else.
enum TLSWords {
  /// The alerts of RFC 8446 section 6.2 that tell one of our ends about a certificate, or about the version.
  private static let alerts: [(token: String, words: String)] = [
    ("ALERT_CERTIFICATE_REQUIRED", "the other end demands a certificate and has been shown none"),
    ("ALERT_CERTIFICATE_EXPIRED", "the other end says that our certificate has expired"),
    ("ALERT_CERTIFICATE_REVOKED", "the other end says that our certificate has been revoked"),
    (
      "ALERT_CERTIFICATE_UNKNOWN",
      "the other end refuses our certificate; its log says why (expired, revoked, another CA, or another role than it expects)"
    ),
    ("ALERT_BAD_CERTIFICATE", "the other end refuses our certificate; its log says why"),
    ("ALERT_UNKNOWN_CA", "the other end does not know the CA of our certificate"),
    ("ALERT_ACCESS_DENIED", "the other end denies us access"),
    ("ALERT_PROTOCOL_VERSION", "the other end does not speak TLS 1.3"),
    ("ALERT_HANDSHAKE_FAILURE", "the other end finds no common ground for TLS"),
  ]

  /// Words for an alert that the other end sent; nil if the error is no alert.
  static func alert(in error: any Error) -> String? {
    let text = "\(error)"
    guard text.contains("_ALERT_") else { return nil }
    return alerts.first { text.contains($0.token) }?.words ?? "the other end broke TLS off: \(reason(in: text))"
  }

  /// Words for the end of a connection that stood; nil if the error is none of TLS.
  static func end(of error: any Error) -> String? {
    if let words = alert(in: error) { return words }
    return error as? NIOSSLError == .uncleanShutdown
      ? "the other end closed the connection without ending TLS: it was cut, or its program ended" : nil
  }

  /// Why a handshake failed that our own look at the certificate did not end.
  static func failure(of error: any Error, end: TLSEnd) -> CertificateError {
    let text = "\(error)"
    if text.contains("PEER_DID_NOT_RETURN_A_CERTIFICATE") { return .noCertificate }
    if let words = alert(in: error) { return .tls(words) }
    let words: String =
      switch true {
      case text.contains("EOF during handshake"), text.contains("uncleanShutdown"):
        "the other end closed the connection in the middle of the TLS handshake; its log says why"
      case text.contains("UNSUPPORTED_PROTOCOL"): "the other end does not speak TLS 1.3"
      case text.contains("HTTP_REQUEST"): "the other end speaks HTTP where TLS is expected"
      case text.contains("WRONG_VERSION_NUMBER"), text.contains("UNEXPECTED_RECORD"), text.contains("UNEXPECTED_MESSAGE"):
        "the other end does not speak TLS"
      default: "the TLS handshake failed: \(reason(in: text))"
      }
    return .tls(words)
  }

  /// The reason in BoringSSL's text: `error:1000012e:SSL routines:OPENSSL_internal:KEY_USAGE_BIT_INCORRECT at ...`.
  private static func reason(in text: String) -> String {
    let marker = "OPENSSL_internal:"
    guard let start = text.firstRange(of: marker)?.upperBound else { return String(text.prefix(120)) }
    return text[start...].prefix { $0.isLetter || $0.isNumber || $0 == "_" }.lowercased().replacing("_", with: " ")
  }
}
