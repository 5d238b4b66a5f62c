package clustertest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"waypost/deploy/up"
	"waypost/director"
	"waypost/director/etcd/embedded"
)

// thinDisk is an extDisk that can be made to fail: its image has holes, and the file system that it lies
// on no space to fill them. The kernel has an I/O error then for each block that was never written before,
// and takes its page for clean. Who writes to the file system hears of it at a sync, or not at all;
// the file system itself goes on.
type thinDisk struct {
	*extDisk
	filler string
}

// onThinDisk is onExtDisk, for a disk that can be made to fail.
func (c *testCluster) onThinDisk(t *testing.T, name string) *thinDisk {
	t.Helper()
	clearLeftovers(t)
	space := filepath.Join(c.dir, name+".left-"+own()+".space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=200M", "tmpfs", space).CombinedOutput(); err != nil {
		t.Skipf("needs mount: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", space).Run() })
	d := &thinDisk{&extDisk{
		t: t, image: filepath.Join(space, imageName(name)), dir: filepath.Join(c.dir, name),
		made: []string{"-J", "size=4", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"}, options: "errors=continue",
	}, filepath.Join(space, "filler")}
	c.moveTo(d.extDisk, name)
	// What the file system itself writes has its place from now on: an error there would be the end of it.
	must(t, d.dir, "sh", "-c", "for round in 1 2 3 4 5 6; do mkdir churn && (cd churn && seq 1 4000 | xargs touch) && sync -f . && rm -r churn && sync -f . || exit; done")
	return d
}

// breaks has the disk fail from now on.
func (d *thinDisk) breaks() {
	d.t.Helper()
	f, err := os.Create(d.filler)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
}

// works has it work again. Where the file system came to harm nevertheless, it is mounted anew; nobody uses it.
func (d *thinDisk) works() {
	d.t.Helper()
	if err := os.Remove(d.filler); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "probe"), nil, 0o600); err == nil {
		return
	}
	d.t.Log("the file system has ended")
	must(d.t, filepath.Dir(d.dir), "umount", d.dir)
	if err := d.mount(); err != nil {
		d.t.Fatal(err)
	}
}

// TestFailingDisk: the disk of a backend loses what it is given, under constant mail and reading. The backend
// stops, with a move to it or from it under way, and it is started again, in vain at first and then on a disk that works, whose file
// system was in use all the time: the kernel still shows what the disk does not have. Then the power goes. Time and again, and
// afterwards all that was acknowledged is there once, as it was.
func TestFailingDisk(t *testing.T) {
	beside(t)
	need(t, "mkfs.ext4", "mount", "findmnt")
	c := newClusterWith(t, func(c *testCluster, _ []up.Unit, _ *embedded.EmbedOptions) { c.freeMover = true })
	c.withUsers(0)
	var users []director.User
	for i := range 6 {
		users = append(users, c.user(t, fmt.Sprintf("u%d@example.test", i), pickHome(i)))
	}
	home, b1 := c.onThinDisk(t, "b1"), c.procs["b1"]
	l := startLoad(c, t, users)
	for i := range 4 {
		l.more(20)
		moved := users[2-i%2]
		home.breaks()
		if _, err := c.admin.CreateMove(t.Context(), string(moved), c.elsewhere(t, moved)); err != nil {
			t.Fatal(err)
		}
		b1.endsByItself(t, "the journal failed")
		b1.start(t) // as the service manager does, time and again
		b1.endsByItself(t, "the journal failed")
		l.more(10) // the spools take it
		home.works()
		c.revive(t, "b1")
		l.more(20)
		home.cutPower(b1)
		c.revive(t, "b1")
		c.movedOrNot(t, moved)
	}
	l.more(10)
	l.end()
	if !t.Failed() {
		l.settled(patience)
		l.check()
	}
}

// TestFailingSpool: the disk of an mx loses what it is given while the spool is needed. Senders are told to try again, and
// what was acknowledged before and afterwards is there once after a power cut.
func TestFailingSpool(t *testing.T) {
	beside(t)
	need(t, "mkfs.ext4", "mount", "findmnt")
	c := newCluster(t)
	users := c.withUsers(4)
	spool, mx1 := c.onThinDisk(t, "mx1"), c.procs["mx1"]
	l := startLoad(c, t, users)
	for range 2 {
		l.more(10)
		for _, b := range []string{"b1", "b2", "b3"} {
			c.procs[b].kill()
		}
		l.more(10)
		spool.breaks()
		c.defers(t, 2525, users[0])
		l.more(10) // by the other
		spool.works()
		eventually(t, "mail is taken again", patience, func() error {
			return send(c.addr(2525), "s@example.org", []string{string(users[0])}, messageFor("again"))
		})
		l.more(10)
		spool.cutPower(mx1)
		c.revive(t, "mx1", "b1", "b2", "b3")
	}
	l.more(10)
	l.end()
	if !t.Failed() {
		l.settled(patience)
		l.check()
	}
}

// movedOrNot waits until a move has ended, one way or the other.
func (c *testCluster) movedOrNot(t *testing.T, u director.User) {
	t.Helper()
	eventually(t, "the move of "+string(u)+" ends", patience, func() error {
		got, err := c.admin.User(t.Context(), u)
		if err == nil && (got.Move != nil || got.State != director.Active) {
			err = fmt.Errorf("it is %s, move %+v", got.State, got.Move)
		}
		return err
	})
	m, err := c.admin.Move(t.Context(), u)
	t.Logf("%s: %+v, %v", u, m.Phase, err)
}
