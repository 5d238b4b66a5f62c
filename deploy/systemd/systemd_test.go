package systemd_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func roles() []string { return []string{"backend", "director", "mx", "proxy", "rebalance"} }

// units copies the units to a folder where systemd-analyze may find the binary
// they start, under a name that exists on every machine.
func units(t *testing.T) (dir string, names []string) {
	t.Helper()
	dir = t.TempDir()
	for _, role := range roles() {
		name := "waypost-" + role + "@.service"
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text, []byte("ExecStart=/usr/bin/waypost "+role+" --config /etc/waypost/"+role+"-%i.toml\n")) {
			t.Errorf("%s does not start its role", name)
		}
		text = bytes.ReplaceAll(text, []byte("=/usr/bin/waypost "), []byte("=/bin/true "))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
		names = append(names, filepath.Join(dir, name))
	}
	return dir, names
}

func analyze(t *testing.T, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is missing: apt-get install systemd")
	}
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestUnitsVerify(t *testing.T) {
	_, names := units(t)
	if out := analyze(t, append([]string{"verify", "--man=no"}, names...)...); out != "" {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
}

// The exposure is systemd's own count, 0 to 10 (here times ten); at 2.0 every setting that a network
// server can do without is off.
func TestUnitsAreHardened(t *testing.T) {
	_, names := units(t)
	for _, name := range names {
		analyze(t, "security", "--offline=true", "--no-pager", "--threshold=20", name)
	}
}

func TestUnitsGiveNoMoreThanIsNeeded(t *testing.T) {
	for _, role := range roles() {
		text, err := os.ReadFile("waypost-" + role + "@.service")
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		caps := ""
		if role == "mx" || role == "proxy" {
			caps = "CAP_NET_BIND_SERVICE"
		}
		for _, want := range []string{
			"Type=notify", "User=waypost", "NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateTmp=yes",
			"MemoryDenyWriteExecute=yes", "SystemCallFilter=@system-service", "Restart=on-failure", "WatchdogSec=30s",
			"StateDirectory=waypost/" + role + "-%i", "CapabilityBoundingSet=" + caps, "AmbientCapabilities=" + caps,
			"ExecStartPre=/usr/bin/waypost " + role + " --config /etc/waypost/" + role + "-%i.toml --check-config",
		} {
			if !slices.Contains(lines, want) {
				t.Errorf("waypost-%s@.service: no line %q", role, want)
			}
		}
	}
}
