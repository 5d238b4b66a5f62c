package clustertest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// What a test makes outside of its folder has the test's process id in its name: interfaces and
// network namespaces, in hexadecimal, images of file systems, and a file system for an image. What is left of a test that was
// killed is removed by the next one that makes such things.
var (
	leftNetwork = regexp.MustCompile(`^wp[bwf]?-([0-9a-f]{1,8})$`)
	leftImage   = regexp.MustCompile(`\.left-([0-9a-f]{1,8})\.ext4$`)
	leftSpace   = regexp.MustCompile(`\.left-([0-9a-f]{1,8})\.space$`)
)

// own is what marks this process's things.
func own() string { return strconv.FormatInt(int64(os.Getpid()), 16) }

// dead tells whether a name is one of those, and of a process that is no more.
func dead(of *regexp.Regexp, name string) bool {
	m := of.FindStringSubmatch(name)
	if m == nil {
		return false
	}
	pid, err := strconv.ParseInt(m[1], 16, 32)
	return err == nil && errors.Is(syscall.Kill(int(pid), 0), syscall.ESRCH)
}

// clearLeftovers removes what tests that were killed have left.
func clearLeftovers(t *testing.T) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(strings.Lines(string(mounts)))
	for _, line := range slices.Backward(lines) { // what lies on another comes behind it
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		left := f[2] == "tmpfs" && dead(leftSpace, f[1])
		if strings.HasPrefix(f[0], "/dev/loop") {
			image, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(f[0]), "loop/backing_file"))
			left = err == nil && dead(leftImage, string(bytes.TrimSpace(image)))
		}
		if !left {
			continue
		}
		if out, err := exec.Command("umount", f[1]).CombinedOutput(); err != nil {
			t.Logf("%s is left: %v: %s", f[1], err, out)
		}
	}
	spaces, _ := os.ReadDir("/run/netns") // there may be none
	for _, e := range spaces {
		if dead(leftNetwork, e.Name()) {
			_, _ = ip("netns", "del", e.Name()) // another test may be as quick
		}
	}
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range links {
		if dead(leftNetwork, e.Name()) {
			_, _ = ip("link", "del", e.Name()) // likewise, and one end takes the other along
		}
	}
}

// TestLeftovers: what a dead process has left goes, what a living one has stays.
func TestLeftovers(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.FormatInt(int64(gone.Process.Pid), 16)
	for name, want := range map[string]bool{
		"wpb-" + pid: true, "wp-" + pid: true, "wpw-" + own(): false, "wp-1": false, "eth0": false, "wpb-": false, "wpx-" + pid: false,
	} {
		if got := dead(leftNetwork, name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if !dead(leftImage, "/tmp/x/b2.left-"+pid+".ext4") || dead(leftImage, "/tmp/x/b2.left-"+own()+".ext4") || dead(leftImage, "/tmp/x/b2.ext4") {
		t.Error("images")
	}
	if os.Getuid() != 0 {
		return
	}
	need(t, "ip")
	if out, err := ip("netns", "add", "wp-"+pid); err != nil {
		t.Logf("no network namespaces here: %v: %s", err, out)
		return
	}
	if out, err := ip("link", "add", "wpb-"+pid, "type", "bridge"); err != nil {
		t.Logf("no bridges here: %v: %s", err, out)
	}
	clearLeftovers(t)
	for _, path := range []string{"/run/netns/wp-" + pid, "/sys/class/net/wpb-" + pid} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is still there", path)
		}
	}
}
