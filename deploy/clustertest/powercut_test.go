package clustertest

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/emersion/go-imap/v2"

	"waypost/director"
)

// cutPower is what a machine's disk knows when its power goes: nothing is written any more from
// now on, and what was not synced is lost, be it a file's contents or its name. Then its process
// is gone; the disk is mounted again, which replays the file system's journal.
func (d *extDisk) cutPower(p *proc) {
	d.t.Helper()
	dir, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	// EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH (linux/ext4.h).
	const shutdown, noLogFlush = 0x8004587d, uint32(2)
	how := noLogFlush
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, dir.Fd(), shutdown, uintptr(unsafe.Pointer(&how)))
	if err := dir.Close(); err != nil {
		d.t.Fatal(err)
	}
	if errno != 0 {
		d.t.Skipf("needs mount: a file system that can be shut down: %v", errno)
	}
	p.kill()
	if out, err := exec.Command("umount", d.dir).CombinedOutput(); err != nil {
		d.t.Fatalf("umount: %v: %s", err, out)
	}
	if err := d.mount(); err != nil {
		d.t.Fatal(err)
	}
}

// midway are victims that lose power not at a point, but at some time within the step after it.
var midway = map[string]string{"target midway": "target", "source midway": "source", "both midway": "both"}

func (k *killer) midway(victim, point string, u director.User) {
	pause := time.NewTimer(rand.N(150 * time.Millisecond))
	defer pause.Stop()
	<-pause.C
	k.kill(midway[victim], point+", midway", u)
}

// cutPower cuts the power of one side of a move, or of both, and starts them again.
func (k *killer) cutPower(victim, point string, u director.User, move [2]director.BackendID) {
	k.t.Logf("power cut of the %s (%s → %s) at %s of %s", victim, move[0], move[1], point, u)
	for side, b := range map[string]director.BackendID{"source": move[0], "target": move[1]} {
		if victim == side || victim == "both" {
			p := k.c.procs[string(b)]
			k.disks[string(b)].cutPower(p)
			p.start(k.t)
		}
	}
}

// TestPowerCutAtEveryStep: constant delivery and reading on users who all move, while the machines
// of source and target, and both at once, lose their power at every step of a move and in the
// middle of a copy, with all that they had not synced. Each disk is an ext4 of its own.
func TestPowerCutAtEveryStep(t *testing.T) {
	need(t, "mkfs.ext4", "mount", "findmnt")
	r := seeded(t, 2)
	c := newCluster(t)
	k := &killer{c: c, t: t, kills: make(map[string]int), disks: make(map[string]*extDisk)}
	for _, b := range []string{"b1", "b2", "b3"} {
		k.disks[b] = c.onExtDisk(t, b)
	}
	users := c.withUsers(6)
	bulk := make(map[director.User]string)
	for i, u := range users {
		bulk[u] = c.bulk(t, u, i)
	}
	l := startLoad(c, t, users)
	k.plan(r, []string{"source", "target", "both"})
	// The first moves are those that copy everything.
	k.todo["copy"] = append([]string{"target midway", "source midway", "target midway", "both midway", "target midway", "target midway"}, k.todo["copy"]...)
	k.todo["frozen"] = append(k.todo["frozen"], "target midway", "both midway")
	k.run(r, l)
	k.judge(l)
	for _, u := range users {
		if got := c.bulkSum(t, u); got != bulk[u] {
			t.Errorf("I2: the bulk of %s is %s, and was %s", u, got, bulk[u])
		}
		waypost(t, c.dir, "", "move", "verify", string(u), "--data", c.dir) // against the receipt
	}
}

const bulkFolder = "Bulk"

// bulk gives a user many small messages and some long ones, and tells what they are.
func (c *testCluster) bulk(t *testing.T, u director.User, i int) string {
	t.Helper()
	conn, err := dialIMAP(c.addr(1143), u)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Create(bulkFolder, nil).Wait(); err != nil {
		t.Fatal(err)
	}
	for n := range 260 {
		lines := 20
		if n%100 == 50 {
			lines = 60_000
		}
		text := fmt.Sprintf("Subject: bulk %d %d\r\n\r\n", i, n) + strings.Repeat(fmt.Sprintf("bulk %d of user %d, and more of it\r\n", n, i), lines)
		a := conn.Append(bulkFolder, int64(len(text)), &imap.AppendOptions{})
		if _, err := a.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	return c.bulkSum(t, u)
}

// bulkSum is a digest of the folder: UIDs, and every byte.
func (c *testCluster) bulkSum(t *testing.T, u director.User) string {
	t.Helper()
	var s seen
	eventually(t, "the bulk of "+string(u), patience, func() (err error) {
		s, err = readIMAP(c.addr(1143), u, bulkFolder, true)
		return err
	})
	h := sha256.New()
	fmt.Fprintln(h, s.validity)
	for _, m := range s.msgs {
		fmt.Fprintln(h, m.uid, len(m.body))
		h.Write(m.body)
	}
	return fmt.Sprintf("%d messages %x", len(s.msgs), h.Sum(nil)[:8])
}
