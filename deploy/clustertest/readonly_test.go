package clustertest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"waypost/director"
)

// extDisk is an ext4 of its own that is mounted in the place of a process's
// folder, as Debian mounts it: with an error it turns read-only, and what was
// written and not synced is gone.
type extDisk struct {
	t                  *testing.T
	image, dir, device string
	// made are options of mkfs.ext4, and options those of the mount.
	made    []string
	options string
}

// onExtDisk stops a process, moves its folder to a new file system, and starts it
// there. It skips the test where nothing can be mounted.
func (c *testCluster) onExtDisk(t *testing.T, name string) *extDisk {
	t.Helper()
	clearLeftovers(t)
	d := &extDisk{
		t: t, image: filepath.Join(c.dir, imageName(name)), dir: filepath.Join(c.dir, name),
		made: []string{"-E", "lazy_itable_init=1,lazy_journal_init=1"}, options: "errors=remount-ro",
	}
	c.moveTo(d, name)
	return d
}

func imageName(name string) string { return name + ".left-" + own() + ".ext4" }

func (c *testCluster) moveTo(d *extDisk, name string) {
	t := d.t
	t.Helper()
	p := c.procs[name]
	p.signal(syscall.SIGTERM)
	p.waitEnd(patience)
	before := d.dir + ".before"
	if err := os.Rename(d.dir, before); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("truncate", "-s", "600M", d.image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("mkfs.ext4", append(d.made, "-q", d.image)...).CombinedOutput(); err != nil {
		t.Skipf("needs mount: mkfs.ext4: %v: %s", err, out)
	}
	if err := d.mount(); err != nil {
		t.Skipf("needs mount: %v", err)
	}
	t.Cleanup(func() {
		p.kill()
		_ = exec.Command("umount", d.dir).Run() // it may have been done
	})
	if out, err := exec.Command("cp", "-a", "--sparse=never", before+"/.", d.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.start(t)
	p.waitReady(t)
}

func (d *extDisk) mount() error {
	if out, err := exec.Command("mount", "-o", "loop,"+d.options, d.image, d.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	out, err := exec.Command("findmnt", "-n", "-o", "SOURCE", d.dir).Output()
	d.device = filepath.Base(strings.TrimSpace(string(out)))
	return err
}

// fails makes the file system find an error.
func (d *extDisk) fails() {
	d.t.Helper()
	if err := os.WriteFile("/sys/fs/ext4/"+d.device+"/trigger_fs_error", []byte("test\n"), 0o200); err != nil {
		d.t.Skipf("needs mount: a file system that can be told to fail: %v", err)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "probe"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		d.t.Fatalf("the file system is not read-only: %v", err)
	}
}

// mend checks it, and mounts it again; nobody uses it.
func (d *extDisk) mend() {
	d.t.Helper()
	if out, err := exec.Command("umount", d.dir).CombinedOutput(); err != nil {
		d.t.Fatalf("umount: %v: %s", err, out)
	}
	var exit *exec.ExitError // 1: it had errors and has none now
	if out, err := exec.Command("e2fsck", "-f", "-y", d.image).CombinedOutput(); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		d.t.Fatalf("e2fsck: %v: %s", err, out)
	}
	if err := d.mount(); err != nil {
		d.t.Fatal(err)
	}
}

// more waits until so many more messages were taken.
func (l *load) more(n int64) {
	l.t.Helper()
	want := l.sent.Load() + n
	eventually(l.t, "mail is taken", patience, func() error {
		if now := l.sent.Load(); now < want {
			return fmt.Errorf("%d of %d", now, want)
		}
		return nil
	})
}

// endsByItself waits until a process has ended, and finds in its log why.
func (p *proc) endsByItself(t *testing.T, why string) {
	t.Helper()
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatalf("%s goes on", p.name)
	}
	log, err := os.ReadFile(p.logPath)
	if err != nil || !bytes.Contains(log, []byte(why)) {
		t.Errorf("%s ended and its log does not say %q: %v", p.name, why, err)
	}
	if bytes.Contains(log, []byte("panic")) {
		t.Errorf("%s has crashed", p.name)
	}
}

// TestReadOnlyDisk: the disk of a backend, and then that of an mx, turns read-only
// under constant mail and reading. Senders are told to try again or their mail
// waits elsewhere, readers see pauses; when the disk is mended all that was
// acknowledged is there once.
func TestReadOnlyDisk(t *testing.T) {
	beside(t)
	need(t, "mkfs.ext4", "e2fsck", "mount", "findmnt")
	c := newCluster(t)
	c.withUsers(0)
	var users []director.User
	for i := range 6 {
		users = append(users, c.user(t, fmt.Sprintf("u%d@example.test", i), pickHome(i)))
	}
	home, spool := c.onExtDisk(t, "b1"), c.onExtDisk(t, "mx1")
	l := startLoad(c, t, users)
	l.more(10)

	home.fails()
	b1 := c.procs["b1"]
	b1.endsByItself(t, "the journal failed")
	b1.start(t) // as the service manager does, time and again
	b1.endsByItself(t, "read-only file system")
	login := make(chan error, 1) // it waits for the home a while
	go func() { login <- l.users[0].lookIMAP(c.addr(1143)) }()
	l.more(5) // the spools take it
	if err := <-login; err == nil || !strings.Contains(err.Error(), "[UNAVAILABLE]") {
		t.Errorf("login while the home is away: %v", err)
	}
	home.mend()
	c.revive(t, "b1")
	l.more(5)

	spool.fails()
	l.more(5) // homes are there, and nothing needs a spool
	b1.kill()
	c.defers(t, 2525, users[0])
	if err := send(c.addr(2526), "s@example.org", []string{string(users[0])}, messageFor("waits")); err != nil {
		t.Errorf("mx2 has a disk: %v", err)
	}
	mx1 := c.procs["mx1"]
	mx1.signal(syscall.SIGTERM)
	mx1.waitEnd(patience)
	spool.mend()
	c.revive(t, "mx1", "b1")
	l.more(5)
	l.end()
	if !t.Failed() {
		l.settled(patience)
		l.check()
	}
}

// pickHome gives most users to b1.
func pickHome(i int) director.BackendID {
	if i%3 == 2 {
		return "b2"
	}
	return "b1"
}

// defers: an mx that cannot keep a message tells the sender to try again.
func (c *testCluster) defers(t *testing.T, port int, u director.User) {
	t.Helper()
	eventually(t, "mail is deferred", patience, func() error {
		err := send(c.addr(port), "s@example.org", []string{string(u)}, messageFor("deferred"))
		if err == nil || !errors.Is(err, errAnswered) || permanent(err) {
			return fmt.Errorf("answer: %w", err)
		}
		return nil
	})
}

// revive starts processes that have ended.
func (c *testCluster) revive(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		c.procs[n].start(t)
	}
	for _, n := range names {
		c.procs[n].waitReady(t)
	}
}
