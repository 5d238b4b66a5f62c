package sftp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"waypost/backend/control"
	"waypost/backend/manifest"
)

// resumeBytes is how large the user of TestResumeLarge is, and resumeMessage most of its messages;
// WAYPOST_RESUME_BYTES and WAYPOST_RESUME_MESSAGE_BYTES for more. Their contents compress well.
const (
	resumeBytes   = 64 << 20
	resumeMessage = 8448
)

// TestResumeLarge: a target whose process dies in the middle of a large user, and forgets what it had
// not written down, is sent nothing again but what was on the connections. Files that came and were
// not written down yet are there and read again; a long file goes on where it was.
func TestResumeLarge(t *testing.T) {
	size, message := int64(resumeBytes), int64(resumeMessage)
	for name, to := range map[string]*int64{"WAYPOST_RESUME_BYTES": &size, "WAYPOST_RESUME_MESSAGE_BYTES": &message} {
		if s := os.Getenv(name); s != "" {
			var err error
			if *to, err = strconv.ParseInt(s, 10, 64); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := newRig(t)
	r.tree.how = manifest.HashFew // a source that has read nothing yet
	small, long := strings.Repeat("a line of 32 bytes, with its end\n", int(message)/33), strings.Repeat("a line of a long message\r\n", 400_000)
	var all int64
	for i := 0; all < size; i++ {
		text := small
		if i%600 == 300 {
			text = long
		}
		r.write(t, fmt.Sprintf("Maildir/.%d/cur/17%08d.M1P1.b1:2,S", i/10_000, i), fmt.Sprintln(i)+text, int64(1700000000+i))
		all += int64(len(fmt.Sprintln(i)) + len(text))
	}
	kept := filepath.Join(t.TempDir(), "kept")
	var sent int64
	var took [2]time.Duration
	for try := range 2 {
		r.target = manifest.NewDurable(r.staging)
		if err := r.target.Keep(kept); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		p := r.newPull(false)
		var onDisk []byte // the ledger as the process leaves it; none yet in a small user
		died := false
		if try == 0 {
			p.progress.last = time.Now().Add(-reportEvery)
			p.Report = func(now control.PullProgress) {
				p.progress.last = time.Time{} // each file is told
				if now.Bytes < all/2 || died {
					return
				}
				died = true
				var err error
				if onDisk, err = os.ReadFile(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
				cancel()
			}
		}
		begin := time.Now()
		done, err := p.Run(ctx)
		took[try] = time.Since(begin)
		cancel()
		sent += done.Bytes
		if cerr := r.target.Close(); cerr != nil {
			t.Fatal(cerr)
		}
		if (err != nil) != (try == 0) {
			t.Fatalf("try %d: %v", try, err)
		}
		if try == 0 {
			err := os.Remove(kept)
			if len(onDisk) > 0 {
				err = os.WriteFile(kept, onDisk, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	r.same(t)
	const underWay = connections * workersEach * chunksEach * packet
	t.Logf("%d bytes: %d sent by both tries, in %s and %s", all, sent, took[0], took[1])
	if most := all + underWay; sent > most {
		t.Errorf("%d bytes were sent for %d, %d at most", sent, all, most)
	}
}
