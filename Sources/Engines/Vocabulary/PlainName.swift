/// Names travel in addresses of the API, in logs and on terminals, so they are kept plain.
package enum PlainName {
  /// A host name's label has 63 (RFC 1035 section 2.3.4).
  package static let maximumLength = 63
  package static let rule = "a name of 1 to \(maximumLength) letters, digits, dots, hyphens or underscores"

  package static func isPlain(_ text: String) -> Bool {
    (1...maximumLength).contains(text.utf8.count)
      && text.utf8.allSatisfy { octet in
        switch octet {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "0")...UInt8(ascii: "9"),
          UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"):
          true
        default: false
        }
      } && text != "." && text != ".."
  }
}
