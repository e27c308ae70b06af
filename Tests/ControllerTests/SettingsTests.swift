import Controller
import Foundation
import Hypervisors
import Testing
import Vocabulary

@Suite("The controller's settings")
struct SettingsTests {
  static let right = """
    listen: 10.0.0.1:7700
    keyFile: longhaul.key
    sites:
      - name: access
      - name: center1
        probe: 10.1.0.5:7701
      - name: center2
    machines:
      - name: vm
        places:
          - site: center1
            agent: 10.1.0.3:7600
            hypervisor: unix:/run/vm1.qmp
          - site: center2
            agent: "[2001:db8::4]:7600"
            hypervisor: tcp:10.2.0.1:4444
    placement:
      delayThresholdMilliseconds: 40
      rateThresholdMbps: 10
      hysteresis: 0.7
      holdSeconds: 5
    pathRates:
      access-center2: 100
    probeIntervalMilliseconds: 500
    """

  private func read(_ yaml: String) throws -> ControllerSettings {
    try ControllerSettings(yaml: yaml, file: "c.yaml", folder: "/etc/longhaul/")
  }

  @Test("everything that can be said is read")
  func everything() throws {
    let settings = try read(Self.right)
    #expect(settings.listen == Endpoint("10.0.0.1:7700"))
    #expect(settings.keyFile == "/etc/longhaul/longhaul.key", "a relative file is found from the settings' folder")
    #expect(settings.sites.map(\.name) == ["access", "center1", "center2"])
    #expect(settings.sites.map(\.probe) == [nil, Endpoint("10.1.0.5:7701"), nil])
    #expect(settings.machines.first?.places.map(\.hypervisor) == [.unix("/run/vm1.qmp"), .tcp(Endpoint("10.2.0.1:4444")!)])
    #expect(settings.placement.delayThreshold == .milliseconds(40 as Int64))
    #expect(settings.placement.rateThreshold == .megabitsPerSecond(10))
    #expect(settings.placement.hysteresis == 0.7)
    #expect(settings.placement.holdTime == .seconds(5 as Int64))
    #expect(settings.pathRates == ["access-center2": .megabitsPerSecond(100)])
    #expect(settings.probeInterval == .milliseconds(500 as Int64))
  }

  @Test("a site may say what lies there")
  func prefixes() throws {
    let settings = try read(Self.right.replacingOccurrences(of: "probe: 10.1.0.5:7701", with: "prefixes: [10.1.0.0/24, 10.7.0.1]"))
    #expect(settings.sites.map(\.prefixes) == [[], [IPPrefix("10.1.0.0/24")!, IPPrefix("10.7.0.1/32")!], []])
    #expect(throws: (any Error).self) {
      try read(Self.right.replacingOccurrences(of: "probe: 10.1.0.5:7701", with: "prefixes: [10.1.0.0/33]"))
    }
  }

  @Test("the least that must be said leaves the rest at its defaults")
  func least() throws {
    let text = Self.right.split(separator: "\n").prefix { !$0.hasPrefix("placement") }.joined(separator: "\n")
    let settings = try read(text.replacingOccurrences(of: "keyFile: longhaul.key", with: "keyFile: /root/key"))
    #expect(settings.keyFile == "/root/key")
    #expect(settings.placement.delayThreshold == .milliseconds(50 as Int64))
    #expect(settings.probeInterval == ControllerSettings.defaultProbeInterval)
  }

  @Test(
    "each mistake is one line with file, line, key and what is expected",
    arguments: [
      ("listen: 10.0.0.1:7700", "listen: 10.0.0.1", "c.yaml:1: listen: \"10.0.0.1\" is not ADDRESS:PORT, for instance 10.0.0.1:7700"),
      ("listen: 10.0.0.1:7700\n", "", "c.yaml:1: listen: missing; expected ADDRESS:PORT"),
      (
        "keyFile: longhaul.key", "keyFile:",
        "c.yaml:1: certificates: missing; expected the folder with the controller's certificate, or `keyFile`, the file with the endpoint key"
      ),
      (
        "keyFile:", "keyfile:",
        "c.yaml:2: keyfile: no such key; known here are listen, keyFile, certificates, sites, machines, placement, pathRates, probeIntervalMilliseconds"
      ),
      ("probe: 10.1.0.5:7701", "probe: true", "c.yaml:6: sites[1].probe: \"true\" is not ADDRESS:PORT, for instance 10.0.0.1:7700"),
      ("- name: center1", "- name: access", "c.yaml:5: sites[1].name: site access is listed twice"),
      (
        "- name: center1", "- name: center 1",
        "c.yaml:5: sites[1].name: \"center 1\" is not a name of 1 to 63 letters, digits, dots, hyphens or underscores"
      ),
      (
        "site: center2", "site: center3", "c.yaml:14: machines[0].places[1].site: center3 is not among the sites (access, center1, center2)"
      ),
      ("site: center2", "site: center1", "c.yaml:11: machines[0].places: center1 is listed twice for machine vm"),
      (
        "unix:/run/vm1.qmp", "/run/vm1.qmp",
        "c.yaml:13: machines[0].places[0].hypervisor: \"/run/vm1.qmp\" is neither unix:PATH nor tcp:ADDRESS:PORT"
      ),
      (
        "/run/vm1.qmp", "/" + String(repeating: "x", count: 107),
        "c.yaml:13: machines[0].places[0].hypervisor: a unix socket's path has at most 107 octets"
      ),
      ("hysteresis: 0.7", "hysteresis: 7", "c.yaml:20: placement.hysteresis: \"7\" is not a number from 0.1 to 1"),
      ("holdSeconds: 5", "holdSeconds: soon", "c.yaml:21: placement.holdSeconds: \"soon\" is not a number from 0 to 86400"),
      (
        "holdSeconds: 5", "hold: 5",
        "c.yaml:21: placement.hold: no such key; known here are delayThresholdMilliseconds, rateThresholdMbps, hysteresis, holdSeconds"
      ),
      (
        "access-center2: 100", "access-center9: 100",
        "c.yaml:23: pathRates.access-center9: no such key; known here are access-center1, access-center2, center1-access, center1-center2, center2-access, center2-center1"
      ),
      ("access-center2: 100", "access-center2: 0", "c.yaml:23: pathRates.access-center2: \"0\" is not a number from 0.001 to 1000000"),
      (
        "probeIntervalMilliseconds: 500", "probeIntervalMilliseconds: 1",
        "c.yaml:24: probeIntervalMilliseconds: \"1\" is not a number from 100 to 60000"
      ),
    ])
  func mistakes(right: String, wrong: String, line: String) throws {
    let range = try #require(Self.right.range(of: right))
    let error = #expect(throws: ControllerError.self) { try read(Self.right.replacingCharacters(in: range, with: wrong)) }
    #expect(error?.description == "settings \(line)")
    #expect(error?.description.contains("\n") == false)
  }

  @Test("a file that is no YAML, empty, of another shape, or not there is one line, too")
  func shapes() throws {
    for (yaml, start) in [
      ("listen: [", "settings c.yaml: is not YAML: "), ("", "settings c.yaml: is empty"),
      ("- a", "settings c.yaml:1: the file: must be keys and values: listen, "),
      ("sites: 7\nlisten: 1.2.3.4:5\nkeyFile: k", "settings c.yaml:1: sites: must be a list of sites"),
      ("listen: 1.2.3.4:5\nlisten: 1.2.3.4:5\n", "settings c.yaml: key "),
    ] {
      let error = #expect(throws: ControllerError.self) { try read(yaml) }
      #expect(error?.description.hasPrefix(start) == true, "\(error?.description ?? "")")
      #expect(error?.description.contains("\n") == false)
    }
    let error = #expect(throws: ControllerError.self) { try ControllerSettings(contentsOf: "/nowhere/c.yaml") }
    #expect(error?.description == "settings /nowhere/c.yaml: cannot be read; see docs/operations/controller.md for an example")
  }

  @Test("names with hyphens that make two paths alike are refused")
  func ambiguous() throws {
    let yaml = Self.right.replacingOccurrences(
      of: "- name: access\n", with: "- name: access\n  - name: a-b\n  - name: c\n  - name: a\n  - name: b-c\n"
    ).replacingOccurrences(of: "access-center2: 100", with: "a-b-c: 100")
    let error = #expect(throws: ControllerError.self) { try read(yaml) }
    #expect(error?.description.hasSuffix("pathRates.a-b-c: names two paths; rename a site") == true, "\(error?.description ?? "")")
  }
}
