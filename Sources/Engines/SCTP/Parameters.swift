import NIOCore
import Vocabulary

/// Parameters of INIT, INIT ACK, ASCONF and ASCONF-ACK (RFC 9260 section 3.3.2, RFC 4895 section 3, RFC 5061 section 4).
enum ParameterType {
  static let heartbeatInfo: UInt16 = 1
  static let ipv4Address: UInt16 = 5
  static let ipv6Address: UInt16 = 6
  static let stateCookie: UInt16 = 7
  static let unrecognized: UInt16 = 8
  static let cookiePreservative: UInt16 = 9
  static let hostName: UInt16 = 11
  static let supportedAddressTypes: UInt16 = 12
  static let outgoingReset: UInt16 = 13
  static let incomingReset: UInt16 = 14
  static let tsnReset: UInt16 = 15
  static let resetResponse: UInt16 = 16
  static let addOutgoingStreams: UInt16 = 17
  static let addIncomingStreams: UInt16 = 18
  static let random: UInt16 = 0x8002
  static let chunkList: UInt16 = 0x8003
  static let hmacAlgorithms: UInt16 = 0x8004
  static let supportedExtensions: UInt16 = 0x8008
  static let forwardTSN: UInt16 = 0xc000
  static let addAddress: UInt16 = 0xc001
  static let deleteAddress: UInt16 = 0xc002
  static let errorCause: UInt16 = 0xc003
  static let setPrimary: UInt16 = 0xc004
  static let success: UInt16 = 0xc005
  static let adaptationLayer: UInt16 = 0xc006
}

struct Parameter: Sendable {
  var type: UInt16
  var value: ByteBuffer

  /// A chunk of 65,535 octets could name 16,000 parameters; nobody needs more than a hundred.
  static let maximum = 256

  /// Cuts a buffer into parameters; nil if it does not come out even.
  static func list(in bytes: ByteBuffer) -> [Parameter]? {
    var rest = bytes
    var list: [Parameter] = []
    while rest.readableBytes > 0 {
      guard let type = rest.readInteger(as: UInt16.self), let length = rest.readInteger(as: UInt16.self), length >= 4,
        let value = rest.readSlice(length: Int(length) - 4), list.count < maximum
      else { return nil }
      list.append(Parameter(type: type, value: value))
      rest.moveReaderIndex(forwardBy: min(padding(Int(length)), rest.readableBytes))
    }
    return list
  }

  /// The two upper bits of a type that we do not know say what to do (RFC 9260 section 3.2.1).
  static func stopsProcessing(_ type: UInt16) -> Bool { type & 0x8000 == 0 }
  static func isReported(_ type: UInt16) -> Bool { type & 0x4000 != 0 }
}

extension ByteBuffer {
  mutating func writeParameter(_ type: UInt16, _ write: (inout ByteBuffer) -> Void) {
    let start = writerIndex
    writeInteger(type)
    writeInteger(UInt16(0))
    write(&self)
    let length = writerIndex - start
    setInteger(UInt16(length), at: start + 2)
    writeRepeatingByte(0, count: padding(length))
  }

  mutating func writeAddressParameter(_ address: IPAddress) {
    switch address {
    case .v4(let value): writeParameter(ParameterType.ipv4Address) { $0.writeInteger(value) }
    case .v6(let high, let low):
      writeParameter(ParameterType.ipv6Address) {
        $0.writeInteger(high)
        $0.writeInteger(low)
      }
    }
  }

  /// Reads one address parameter.
  mutating func readAddressParameter() -> IPAddress? {
    guard let type = readInteger(as: UInt16.self), let length = readInteger(as: UInt16.self), length >= 4,
      var value = readSlice(length: Int(length) - 4)
    else { return nil }
    return value.readAddress(parameterType: type)
  }

  mutating func readAddress(parameterType: UInt16) -> IPAddress? {
    switch parameterType {
    case ParameterType.ipv4Address: return readableBytes == 4 ? readInteger(as: UInt32.self).map { .v4($0) } : nil
    case ParameterType.ipv6Address:
      guard readableBytes == 16, let high = readInteger(as: UInt64.self), let low = readInteger(as: UInt64.self) else { return nil }
      return .v6(high: high, low: low)
    default: return nil
    }
  }
}

/// What is wrong with an INIT or INIT ACK (RFC 9260 sections 3.3.2 and 5.1.2).
struct InitiationFault: Sendable {
  var cause: ErrorCause
  /// The parameter that it is about.
  var parameter: UInt16?

  func write(into bytes: inout ByteBuffer) {
    bytes.writeCause(cause) { info in
      guard let parameter else { return }
      if cause == .missingParameter {
        info.writeInteger(UInt32(1))
        info.writeInteger(parameter)
      } else {
        info.writeParameter(parameter) { _ in }
      }
    }
  }
}

/// What INIT and INIT ACK have in common (RFC 9260 section 3.3.2).
struct Initiation: Sendable {
  var tag: UInt32
  var receiveWindow: UInt32
  var outboundStreams: UInt16
  var inboundStreams: UInt16
  var initialTSN: TSN
  var addresses: [IPAddress] = []
  var cookie: ByteBuffer?
  /// The peer's part of the AUTH key (RFC 4895 section 6.1); see `keyVector`.
  private var randomParameter: Parameter?
  private var chunksParameter: Parameter?
  private var algorithmsParameter: Parameter?
  var randomLength = 0
  var authenticatedChunks: [UInt8] = []
  /// In the peer's order of preference; what we do not know is left out.
  var algorithms: [HMACAlgorithm] = []
  var extensions: [UInt8] = []
  var unrecognized: [ByteBuffer] = []
  /// Host Name Address, which RFC 9260 has done away with.
  private var namesHost = false
  private var supportedAddressTypes: [UInt16] = []

  /// The peer can use this kind of address (RFC 9260 section 3.3.2.1.6); one that names none can use all.
  func takes(_ address: IPAddress) -> Bool {
    let type = if case .v4 = address { ParameterType.ipv4Address } else { ParameterType.ipv6Address }
    return supportedAddressTypes.isEmpty || supportedAddressTypes.contains(type)
  }

  /// Why no association can come of it.
  var fault: InitiationFault? {
    if outboundStreams == 0 || inboundStreams == 0 { return InitiationFault(cause: .invalidParameter) }
    if namesHost { return InitiationFault(cause: .unresolvableAddress, parameter: ParameterType.hostName) }
    return nil
  }

  /// The peer's first choice that we have too; nil: no AUTH between us.
  func algorithm(for features: AssociationConfiguration.Features) -> HMACAlgorithm? {
    guard features.authentication, randomLength > 0 else { return nil }
    return algorithms.first { features.algorithms.contains($0) }
  }
  /// Whether or not we have its algorithm.
  var offersAuthentication: Bool { randomLength > 0 }
  func offers(_ type: ChunkType) -> Bool { extensions.contains(type.rawValue) }
  var offersASCONF: Bool { extensions.contains(ChunkType.asconf.rawValue) }

  init(tag: UInt32, receiveWindow: UInt32, outboundStreams: UInt16, inboundStreams: UInt16, initialTSN: TSN) {
    self.tag = tag
    self.receiveWindow = receiveWindow
    self.outboundStreams = outboundStreams
    self.inboundStreams = inboundStreams
    self.initialTSN = initialTSN
  }

  init?(_ value: ByteBuffer) {
    var rest = value
    guard let tag = rest.readInteger(as: UInt32.self), let window = rest.readInteger(as: UInt32.self),
      let outbound = rest.readInteger(as: UInt16.self),
      let inbound = rest.readInteger(as: UInt16.self), let tsn = rest.readInteger(as: UInt32.self),
      let parameters = Parameter.list(in: rest)
    else { return nil }
    self.init(tag: tag, receiveWindow: window, outboundStreams: outbound, inboundStreams: inbound, initialTSN: TSN(tsn))
    for parameter in parameters {
      if !read(parameter) { break }
    }
  }

  /// False: an unknown parameter asks to stop here.
  private mutating func read(_ parameter: Parameter) -> Bool {
    var value = parameter.value
    switch parameter.type {
    case ParameterType.ipv4Address, ParameterType.ipv6Address:
      if let address = value.readAddress(parameterType: parameter.type) { addresses.append(address) }
    case ParameterType.stateCookie: cookie = value
    case ParameterType.hostName: namesHost = true
    case ParameterType.supportedAddressTypes:
      while let type = value.readInteger(as: UInt16.self), supportedAddressTypes.count < 8 { supportedAddressTypes.append(type) }
    // Understood, and of no use here.
    case ParameterType.unrecognized, ParameterType.cookiePreservative, ParameterType.adaptationLayer: break
    case ParameterType.random:
      randomLength = value.readableBytes
      randomParameter = parameter
    case ParameterType.chunkList:
      authenticatedChunks = Array(value.readableBytesView)
      chunksParameter = parameter
    case ParameterType.hmacAlgorithms:
      algorithmsParameter = parameter
      while let algorithm = value.readInteger(as: UInt16.self) {
        if let algorithm = HMACAlgorithm(rawValue: algorithm), algorithms.count < 8 { algorithms.append(algorithm) }
      }
    case ParameterType.supportedExtensions: extensions += value.readableBytesView
    case ParameterType.forwardTSN: extensions.append(ChunkType.forwardTSN.rawValue)  // RFC 3758 section 3.1; newer peers name the chunk
    default:
      if Parameter.isReported(parameter.type) {
        var whole = ByteBuffer()
        whole.writeParameter(parameter.type) { $0.writeImmutableBuffer(parameter.value) }
        unrecognized.append(whole)
      }
      return !Parameter.stopsProcessing(parameter.type)
    }
    return true
  }

  /// Reads RANDOM, CHUNKS and HMAC-ALGO again out of a key vector that a cookie has kept (it has no padding).
  mutating func readKeyVector(_ vector: ByteBuffer) {
    var rest = vector
    while let type = rest.readInteger(as: UInt16.self), let length = rest.readInteger(as: UInt16.self), length >= 4,
      let value = rest.readSlice(length: Int(length) - 4)
    {
      _ = read(Parameter(type: type, value: value))
    }
  }

  /// In this order, however they stood in the chunk, and without padding (RFC 4895 section 6.1).
  var keyVector: ByteBuffer {
    var vector = ByteBuffer()
    for parameter in [randomParameter, chunksParameter, algorithmsParameter].compactMap({ $0 }) {
      vector.writeInteger(parameter.type)
      vector.writeInteger(UInt16(parameter.value.readableBytes + 4))
      vector.writeImmutableBuffer(parameter.value)
    }
    return vector
  }

  func write(into bytes: inout ByteBuffer, random: [UInt8], features: AssociationConfiguration.Features) {
    bytes.writeInteger(tag)
    bytes.writeInteger(receiveWindow)
    bytes.writeInteger(outboundStreams)
    bytes.writeInteger(inboundStreams)
    bytes.writeInteger(initialTSN.value)
    for address in addresses { bytes.writeAddressParameter(address) }
    let types = features.extensions
    if !types.isEmpty { bytes.writeParameter(ParameterType.supportedExtensions) { $0.writeBytes(types.map(\.rawValue)) } }
    if features.partialReliability { bytes.writeParameter(ParameterType.forwardTSN) { _ in } }
    if features.authentication { Authentication.writeParameters(into: &bytes, random: random, features.algorithms) }
    if let cookie { bytes.writeParameter(ParameterType.stateCookie) { $0.writeImmutableBuffer(cookie) } }
    for parameter in unrecognized { bytes.writeParameter(ParameterType.unrecognized) { $0.writeImmutableBuffer(parameter) } }
  }
}
