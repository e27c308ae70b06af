import SwiftASN1
import Vocabulary
import X509

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// CertificateList of RFC 5280 section 5.1: the content, the algorithm, the signature.
struct SignedList: DERParseable {
  let content: ListContent
  let contentOctets: ArraySlice<UInt8>
  let signature: ArraySlice<UInt8>

  init(derEncoded node: ASN1Node) throws {
    self = try DER.sequence(node, identifier: .sequence) { nodes in
      guard let first = nodes.next() else { throw ASN1Error.invalidASN1Object(reason: "an empty revocation list") }
      let content = try ListContent(derEncoded: first)
      try ListContent.parseAlgorithm(&nodes)
      let signature = try ASN1BitString(derEncoded: &nodes)
      guard signature.paddingBits == 0 else { throw ASN1Error.invalidASN1Object(reason: "a signature of broken octets") }
      return SignedList(content: content, contentOctets: first.encodedBytes, signature: signature.bytes)
    }
  }

  private init(content: ListContent, contentOctets: ArraySlice<UInt8>, signature: ArraySlice<UInt8>) {
    self.content = content
    self.contentOctets = contentOctets
    self.signature = signature
  }
}

/// TBSCertList of RFC 5280 section 5.1.2, of the one kind that we write: version 2, ECDSA with SHA-256, no reasons and no entries' extensions.
struct ListContent: DERParseable, DERSerializable {
  // ecdsa-with-SHA256 (RFC 5758 section 3.2), cRLNumber and authorityKeyIdentifier (RFC 5280 sections 5.2.3 and 5.2.1)
  static let algorithm: ASN1ObjectIdentifier = [1, 2, 840, 10045, 4, 3, 2]
  static let numberExtension: ASN1ObjectIdentifier = [2, 5, 29, 20]
  static let keyExtension: ASN1ObjectIdentifier = [2, 5, 29, 35]

  var issuer: DistinguishedName
  var issued: Date
  var nextUpdate: Date
  var entries: [RevocationList.Entry]
  var keyIdentifier: [UInt8]
  var number: UInt64

  init(
    issuer: DistinguishedName, issued: Date, nextUpdate: Date, entries: [RevocationList.Entry], keyIdentifier: [UInt8], number: UInt64
  ) {
    self.issuer = issuer
    self.issued = issued
    self.nextUpdate = nextUpdate
    self.entries = entries
    self.keyIdentifier = keyIdentifier
    self.number = number
  }

  init(derEncoded node: ASN1Node) throws {
    self = try DER.sequence(node, identifier: .sequence) { nodes in
      guard try Int(derEncoded: &nodes) == 1 else { throw ASN1Error.invalidASN1Object(reason: "not version 2") }  // v2 is written 1
      try ListContent.parseAlgorithm(&nodes)
      let issuer = try ListContent.name(&nodes)
      let issued = try ListTime(derEncoded: &nodes).date
      let nextUpdate = try ListTime(derEncoded: &nodes).date
      var entries: [RevocationList.Entry] = []
      var number: UInt64?
      var keyIdentifier: [UInt8] = []
      while let node = nodes.next() {
        if node.identifier == .sequence {
          entries = try DER.sequence(of: ListEntry.self, identifier: .sequence, rootNode: node).map(\.entry)
        } else {
          let tag = ASN1Identifier(tagWithNumber: 0, tagClass: .contextSpecific)
          let extensions = try DER.explicitlyTagged(node, tagNumber: tag.tagNumber, tagClass: tag.tagClass) { inner in
            try DER.sequence(of: Certificate.Extension.self, identifier: .sequence, rootNode: inner)
          }
          for part in extensions {
            switch part.oid {
            case ListContent.numberExtension: number = try UInt64(derEncoded: part.value)
            case ListContent.keyExtension: keyIdentifier = (try AuthorityKeyIdentifier(part).keyIdentifier).map { Array($0) } ?? []
            // A delta list or one of a part of the certificates would be critical (sections 5.2.4 and 5.2.5), and is none of ours.
            default: if part.critical { throw ASN1Error.invalidASN1Object(reason: "a critical extension \(part.oid)") }
            }
          }
        }
      }
      guard let number else { throw ASN1Error.invalidASN1Object(reason: "no list number") }
      return ListContent(
        issuer: issuer, issued: issued, nextUpdate: nextUpdate, entries: entries, keyIdentifier: keyIdentifier, number: number)
    }
  }

  func serialize(into coder: inout DER.Serializer) throws {
    try coder.appendConstructedNode(identifier: .sequence) { coder in
      try coder.serialize(1)
      try ListContent.serializeAlgorithm(into: &coder)
      try coder.serialize(issuer)
      try coder.serialize(ListTime(issued))
      try coder.serialize(ListTime(nextUpdate))
      // Section 5.1.2.6: an empty list is left out.
      if !entries.isEmpty { try coder.serializeSequenceOf(entries.map(ListEntry.init)) }
      let key = Certificate.Extension(
        oid: ListContent.keyExtension, critical: false,
        value: try Certificate.Extension(AuthorityKeyIdentifier(keyIdentifier: keyIdentifier[...]), critical: false).value)
      var numberOctets = DER.Serializer()
      try numberOctets.serialize(number)
      let number = Certificate.Extension(oid: ListContent.numberExtension, critical: false, value: numberOctets.serializedBytes[...])
      try coder.serialize(explicitlyTaggedWithTagNumber: 0, tagClass: .contextSpecific) { coder in
        try coder.serializeSequenceOf([key, number])
      }
    }
  }

  /// Written so, the initialiser of DERParseable is called: the shorter form finds a deprecated one.
  private static func name(_ nodes: inout ASN1NodeCollection.Iterator) throws -> DistinguishedName {
    let read: (inout ASN1NodeCollection.Iterator) throws -> DistinguishedName = DistinguishedName.init(derEncoded:)
    return try read(&nodes)
  }

  static func serializeAlgorithm(into coder: inout DER.Serializer) throws {
    try coder.appendConstructedNode(identifier: .sequence) { try $0.serialize(algorithm) }
  }

  static func parseAlgorithm(_ nodes: inout ASN1NodeCollection.Iterator) throws {
    guard let node = nodes.next() else { throw ASN1Error.invalidASN1Object(reason: "no algorithm") }
    try DER.sequence(node, identifier: .sequence) { inner in
      guard try ASN1ObjectIdentifier(derEncoded: &inner) == algorithm else {
        throw ASN1Error.invalidASN1Object(reason: "not ECDSA with SHA-256")
      }
    }
  }
}

/// One revoked certificate: its serial number and when.
private struct ListEntry: DERParseable, DERSerializable {
  let entry: RevocationList.Entry

  init(_ entry: RevocationList.Entry) { self.entry = entry }

  init(derEncoded node: ASN1Node) throws {
    entry = try DER.sequence(node, identifier: .sequence) { nodes in
      let serial = try ArraySlice<UInt8>(derEncoded: &nodes)
      let date = try ListTime(derEncoded: &nodes).date
      while nodes.next() != nil {}  // reasons and the like, which change nothing
      return RevocationList.Entry(serial: hexadecimal(Certificate.SerialNumber(bytes: serial).bytes), date: date)
    }
  }

  func serialize(into coder: inout DER.Serializer) throws {
    guard let serial = octets(ofHexadecimal: entry.serial) else {
      throw ASN1Error.invalidASN1Object(reason: "a serial number without digits")
    }
    try coder.appendConstructedNode(identifier: .sequence) { coder in
      try coder.serialize(Certificate.SerialNumber(bytes: serial).bytes)
      try coder.serialize(ListTime(entry.date))
    }
  }
}

/// Time of RFC 5280 section 4.1.2.5: UTCTime up to 2049, GeneralizedTime after.
private struct ListTime: DERParseable, DERSerializable {
  let date: Date

  init(_ date: Date) { self.date = date }

  init(derEncoded node: ASN1Node) throws {
    var parts = DateComponents()
    if node.identifier == .utcTime {
      let time = try UTCTime(derEncoded: node)
      (parts.year, parts.month, parts.day) = (time.year, time.month, time.day)
      (parts.hour, parts.minute, parts.second) = (time.hours, time.minutes, time.seconds)
    } else {
      let time = try GeneralizedTime(derEncoded: node)
      (parts.year, parts.month, parts.day) = (time.year, time.month, time.day)
      (parts.hour, parts.minute, parts.second) = (time.hours, time.minutes, time.seconds)
    }
    guard let date = ListTime.calendar.date(from: parts) else { throw ASN1Error.invalidASN1Object(reason: "no such time") }
    self.date = date
  }

  func serialize(into coder: inout DER.Serializer) throws {
    let parts = ListTime.calendar.dateComponents([.year, .month, .day, .hour, .minute, .second], from: date)
    guard let year = parts.year, let month = parts.month, let day = parts.day, let hour = parts.hour, let minute = parts.minute,
      let second = parts.second
    else { throw ASN1Error.invalidASN1Object(reason: "no such time") }
    if year < 2050 {
      try coder.serialize(UTCTime(year: year, month: month, day: day, hours: hour, minutes: minute, seconds: second))
    } else {
      try coder.serialize(
        GeneralizedTime(year: year, month: month, day: day, hours: hour, minutes: minute, seconds: second, fractionalSeconds: 0))
    }
  }

  private static let calendar: Calendar = {
    var calendar = Calendar(identifier: .gregorian)
    calendar.timeZone = .gmt
    return calendar
  }()
}
