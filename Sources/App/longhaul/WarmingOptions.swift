import ArgumentParser

/// How ready tunnels are kept, for `longhaul accelerator`.
struct WarmingOptions: ParsableArguments {
  @Flag(
    name: .customLong("keep-warm"),
    help:
      "Open the windows of all tunnels to peers as soon as they are up, for --rate-limit, and keep them open; without it the controller orders that."
  )
  var keepsWarm = false
}
