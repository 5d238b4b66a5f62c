package clustertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"

	"waypost/director"
	"waypost/director/admin"
	"waypost/director/etcd/embedded"
	"waypost/director/restore"
)

// sentMail is one message that got its 250.
type sentMail struct {
	subject string
	begun   time.Time
	acked   time.Time
}

// restoreRun is a cluster that loses a disk, and then its directory.
type restoreRun struct {
	*testCluster
	t       *testing.T
	users   []director.User
	backups string

	mu   sync.Mutex // guards sent
	sent map[director.User][]sentMail
}

// TestLostDisksAndDirectory: users are backed up under load; a backend's disk is
// lost, and its users live on elsewhere from the backup, with all that waited in the
// spools; then etcd's data are lost, and the directory comes back from the fences
// and a node's copy; then they go back to an image from before some moves, and it
// comes back from that and the fences.
func TestLostDisksAndDirectory(t *testing.T) {
	beside(t)
	c := newCluster(t)
	r := &restoreRun{testCluster: c, t: t, users: c.withUsers(9), backups: filepath.Join(t.TempDir(), "backups"), sent: map[director.User][]sentMail{}}
	stop := make(chan struct{})
	var senders sync.WaitGroup
	for s := range 2 {
		senders.Go(func() { r.load(s, stop) })
	}
	r.flow(60)
	begun := time.Now()
	r.backup()
	r.flow(40)
	before := map[director.User]map[uint32]string{}
	for _, u := range r.users {
		before[u] = r.read(u)
	}
	var theirs []director.User
	for _, u := range r.users {
		if r.home(u) == "b2" {
			theirs = append(theirs, u)
		}
	}
	if len(theirs) == 0 {
		t.Fatal("nobody lives on b2")
	}
	c.procs["b2"].kill()
	killed := time.Now()
	if err := os.RemoveAll(filepath.Join(c.dir, "b2")); err != nil {
		t.Fatal(err)
	}
	r.flow(40)
	r.lost()
	r.flow(20)
	close(stop)
	senders.Wait()
	for _, u := range r.users {
		lostDisk := false
		for _, x := range theirs {
			lostDisk = lostDisk || x == u
		}
		r.has(u, before[u], func(m sentMail) bool { return !lostDisk || m.acked.Before(begun) || m.begun.After(killed) })
		if home := r.home(u); home == "b2" {
			t.Errorf("%s still lives on b2", u)
		}
	}
	r.bringBack()
	r.loseDirectory()
	r.directoryGoesBack()
}

// bringBack restores a user who has emptied the mailbox, while mail comes, and one
// who was deleted.
func (r *restoreRun) bringBack() {
	t := r.t
	t.Helper()
	u := r.users[0]
	if _, err := r.cli("backup", string(u), "--to", r.backups); err != nil {
		t.Fatal(err)
	}
	before := r.read(u)
	c, err := dialIMAP(r.addr(1143), u)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	all := imap.SeqSet{}
	all.AddRange(1, 0)
	if err := c.Store(all, &imap.StoreFlags{Op: imap.StoreFlagsAdd, Flags: []imap.Flag{imap.FlagDeleted}, Silent: true}, nil).Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Expunge().Close(); err != nil {
		t.Fatal(err)
	}
	if err := send(r.addr(2525), "load@example.org", []string{string(u)}, messageFor("since-the-backup")); err != nil {
		t.Fatal(err)
	}
	if now := r.read(u); len(now) != 1 {
		t.Fatalf("%d messages after all were expunged", len(now))
	}
	out, err := r.cli("restore", string(u), "--from", r.backups, "--json")
	if err != nil || !strings.Contains(out, `"kept_messages": 1`) {
		t.Fatalf("%v: %s", err, out)
	}
	now := r.read(u)
	if len(now) != len(before)+1 {
		t.Errorf("%d messages after the restore, %d before", len(now), len(before))
	}
	for uid, subject := range before {
		if now[uid] != subject {
			t.Errorf("UID %d was %s, and is %q", uid, subject, now[uid])
		}
	}

	gone := r.users[1]
	before = r.read(gone)
	if _, err := r.cli("backup", string(gone), "--to", r.backups); err != nil {
		t.Fatal(err)
	}
	if _, err := r.admin.DeleteUser(context.Background(), gone); err != nil {
		t.Fatal(err)
	}
	if _, err := r.cli("restore", string(gone), "--from", r.backups, "--to", "b3"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deleted user is back", patience, func() error {
		s, err := readIMAP(r.addr(1143), gone, "INBOX", false)
		if err == nil && len(s.msgs) != len(before) {
			err = fmt.Errorf("%d messages of %d", len(s.msgs), len(before))
		}
		return err
	})
	if home := r.home(gone); home != "b3" {
		t.Errorf("the deleted user is back at %s", home)
	}
}

func (r *restoreRun) load(s int, stop chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		u := r.users[(n*2+s)%len(r.users)]
		m := sentMail{subject: fmt.Sprintf("restore-%d-%d", s, n), begun: time.Now()}
		if err := send(r.addr(2525+s), "load@example.org", []string{string(u)}, messageFor(m.subject)); err != nil {
			r.t.Errorf("a sender saw an error: %v", err)
			return
		}
		m.acked = time.Now()
		r.mu.Lock()
		r.sent[u] = append(r.sent[u], m)
		r.mu.Unlock()
	}
}

// flow waits for so many more messages.
func (r *restoreRun) flow(n int) {
	r.t.Helper()
	count := func() (n int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, list := range r.sent {
			n += len(list)
		}
		return n
	}
	want := count() + n
	eventually(r.t, "mail flows", 2*patience, func() error {
		if have := count(); have < want {
			return fmt.Errorf("%d messages of %d", have, want)
		}
		return nil
	})
}

func (r *restoreRun) cli(args ...string) (string, error) {
	cmd := command(r.dir, append(args, "--data", r.dir)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("waypost %s: %w: %s%s", strings.Join(args, " "), err, out.String(), said.String())
	}
	return out.String(), err
}

// backup takes two generations under load, and verifies them.
func (r *restoreRun) backup() {
	r.t.Helper()
	for range 2 {
		out, err := r.cli("backup", "--all", "--to", r.backups, "--json")
		if err != nil {
			r.t.Fatal(err)
		}
		if n := strings.Count(out, `"result":"done"`); n != len(r.users) {
			r.t.Fatalf("%d users were copied: %s", n, out)
		}
		r.t.Log(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:])
	}
	waypost(r.t, r.dir, "", "backup", "verify", r.backups)
}

// lost declares b2 lost, which is refused while gossip believes in it.
func (r *restoreRun) lost() {
	r.t.Helper()
	var out string
	eventually(r.t, "b2 is declared lost, and its users restored", 2*patience, func() (err error) {
		out, err = r.cli("backend", "lost", "b2", "--restore-from", r.backups, "--json")
		return err
	})
	r.t.Log(out)
	if !strings.Contains(out, `"offline":0,"failed":0`) {
		r.t.Errorf("not all were restored: %s", out)
	}
}

func (r *restoreRun) home(u director.User) director.BackendID {
	r.t.Helper()
	got, err := r.admin.User(context.Background(), u)
	if err != nil {
		r.t.Fatal(err)
	}
	return got.Home
}

// read gives the subjects of INBOX by UID.
func (r *restoreRun) read(u director.User) map[uint32]string {
	r.t.Helper()
	var s seen
	eventually(r.t, "INBOX of "+string(u), patience, func() (err error) {
		s, err = readIMAP(r.addr(1143), u, "INBOX", true)
		return err
	})
	by := map[uint32]string{}
	for _, m := range s.msgs {
		by[m.uid] = subjectOf(m.body)
	}
	return by
}

func subjectOf(body []byte) string {
	_, rest, _ := strings.Cut(string(body), "Subject: ")
	subject, _, _ := strings.Cut(rest, "\r\n")
	return subject
}

// has waits until all mail that must be there is, once, and no UID that was told
// stands for another message.
func (r *restoreRun) has(u director.User, told map[uint32]string, must func(sentMail) bool) {
	r.t.Helper()
	var now map[uint32]string
	eventually(r.t, "all mail of "+string(u), 2*patience, func() error {
		now = r.read(u)
		have := map[string]int{}
		for _, subject := range now {
			have[subject]++
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		var missing []string
		for _, m := range r.sent[u] {
			if have[m.subject] == 0 && must(m) {
				missing = append(missing, m.subject)
			}
			if have[m.subject] > 1 {
				r.t.Errorf("%s is there %d times", m.subject, have[m.subject])
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("%d messages are missing: %v", len(missing), missing)
		}
		return nil
	})
	for uid, subject := range now {
		if was, had := told[uid]; had && was != subject {
			r.t.Errorf("%s: UID %d was %s, and is %s", u, uid, was, subject)
		}
	}
}

// loseDirectory empties etcd and restores.
func (r *restoreRun) loseDirectory() {
	t := r.t
	t.Helper()
	before, homes := map[director.User]map[uint32]string{}, map[director.User]director.BackendID{}
	for _, u := range r.users {
		before[u], homes[u] = r.read(u), r.home(u)
	}
	// A node that ends leaves its copy of the directory.
	r.procs["p2"].signal(syscall.SIGTERM)
	r.procs["p2"].waitEnd(patience)
	r.procs["d1"].signal(syscall.SIGTERM)
	r.procs["d1"].waitEnd(patience)
	r.procs["e1"].kill()
	if err := os.RemoveAll(r.etcdData()); err != nil {
		t.Fatal(err)
	}
	r.procs["e1"].start(t)
	r.procs["e1"].waitReady(t)
	// A director does not take it for a new cluster, and known users keep working.
	r.procs["d1"].start(t)
	eventually(t, "the director waits for a restore", patience, func() error {
		log, err := os.ReadFile(r.procs["d1"].logPath)
		if err == nil && !bytes.Contains(log, []byte("etcd is empty, but this node has a copy")) {
			err = errors.New("not said yet")
		}
		return err
	})
	if err := send(r.addr(2525), "load@example.org", []string{string(r.users[0])}, messageFor("without-directory")); err != nil {
		t.Errorf("mail while the directory is lost: %v", err)
	}
	config := []string{"director", "restore", "--config", filepath.Join(r.dir, "d1.conf"), "--directory-snapshot", filepath.Join(r.dir, "snapshots", "p2")}
	var dry, report restore.Report
	waypostJSON(t, r.dir, &dry, append(config, "--dry-run")...)
	waypostJSON(t, r.dir, &report, config...)
	if dry.Decided != len(r.users) || report.Decided != len(r.users) || report.Closed != 0 || len(report.NoAccount) != 0 || len(report.Lost) != 1 {
		t.Errorf("restored: %+v; dry: %+v", report, dry)
	}
	r.procs["d1"].waitReady(t)
	r.procs["p2"].start(t)
	r.procs["p2"].waitReady(t)
	r.admin = r.adminClient()
	r.asBefore(homes, before, "after-directory")
	if m := r.move(t, r.users[0], map[bool]director.BackendID{true: "b3", false: "b1"}[homes[r.users[0]] == "b1"]); m.Phase != director.PhaseDone {
		t.Errorf("a move after the restore: %+v", m)
	}
}

// etcdData is the folder of the embedded etcd.
func (r *restoreRun) etcdData() string {
	r.t.Helper()
	var etcd embedded.EmbedOptions
	file, err := os.ReadFile(filepath.Join(r.dir, "e1.conf"))
	if err == nil {
		err = json.Unmarshal(file, &etcd)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return etcd.Dir
}

// asBefore waits until all users live where they did, have the mail they had, and get more.
func (r *restoreRun) asBefore(homes map[director.User]director.BackendID, before map[director.User]map[uint32]string, subject string) {
	t := r.t
	t.Helper()
	for _, u := range r.users {
		var got admin.User
		eventually(t, "home of "+string(u), patience, func() (err error) {
			got, err = r.admin.User(context.Background(), u)
			return err
		})
		if got.Home != homes[u] || got.Epoch < 2 {
			t.Errorf("%s: %+v, the home was %s", u, got, homes[u])
		}
		eventually(t, "mail for "+string(u), patience, func() error {
			return send(r.addr(2526), "load@example.org", []string{string(u)}, messageFor(subject))
		})
		eventually(t, "new and old mail of "+string(u), patience, func() error {
			now, new := r.read(u), false
			for uid, had := range before[u] {
				if now[uid] != had {
					return fmt.Errorf("UID %d was %s, and is %q", uid, had, now[uid])
				}
			}
			for _, have := range now {
				new = new || have == subject
			}
			if !new {
				return errors.New("the new mail is not there")
			}
			return nil
		})
	}
}

// directoryGoesBack puts an image of etcd's data back from before users moved, and
// restores: the fences know better.
func (r *restoreRun) directoryGoesBack() {
	t := r.t
	t.Helper()
	end := func(name string) {
		r.procs[name].signal(syscall.SIGTERM)
		r.procs[name].waitEnd(patience)
	}
	image := filepath.Join(t.TempDir(), "etcd")
	end("e1")
	if err := os.CopyFS(image, os.DirFS(r.etcdData())); err != nil {
		t.Fatal(err)
	}
	r.procs["e1"].start(t)
	r.procs["e1"].waitReady(t)
	for i, u := range r.users[:6] {
		for range 1 + i%2 { // some back to where the image has them, at another epoch
			to := director.BackendID("b3")
			if r.home(u) == to {
				to = "b1"
			}
			if m := r.move(t, u, to); m.Phase != director.PhaseDone {
				t.Fatalf("move of %s: %+v", u, m)
			}
		}
	}
	before, homes := map[director.User]map[uint32]string{}, map[director.User]director.BackendID{}
	for _, u := range r.users {
		before[u], homes[u] = r.read(u), r.home(u)
	}
	end("d1")
	r.procs["e1"].kill()
	err := os.RemoveAll(r.etcdData())
	if err == nil {
		err = os.CopyFS(r.etcdData(), os.DirFS(image))
	}
	if err == nil {
		err = os.Chmod(r.etcdData(), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.procs["e1"].start(t)
	r.procs["e1"].waitReady(t)
	var report restore.Report
	waypostJSON(t, r.dir, &report, "director", "restore", "--config", filepath.Join(r.dir, "d1.conf"))
	if report.Decided != len(r.users) || report.Closed != 0 || len(report.NoAccount) != 0 {
		t.Errorf("restored from an image: %+v", report)
	}
	r.procs["d1"].start(t)
	r.procs["d1"].waitReady(t)
	r.admin = r.adminClient()
	r.asBefore(homes, before, "after-the-image")
}
