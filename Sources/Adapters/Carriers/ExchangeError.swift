/// Why the exchange at the start of a sealed session came to nothing. The description is part of a line.
package struct ExchangeError: Error, Hashable, CustomStringConvertible {
  package var description: String
  package init(_ description: String) { self.description = description }
}
