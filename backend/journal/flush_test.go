package journal

import (
	"errors"
	"testing"
)

// TestFlushOfUnapplied: Flush does not say that nothing of a user is needed while a change is
// not in the files, be it of a record that touches none. The others it makes durable.
func TestFlushOfUnapplied(t *testing.T) {
	disk := newFS(t, 1)
	j := mustStart(t, options(disk))
	path := mailDir + "/m"
	if err := writeMail(disk, path, []byte("mail")); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, "", nil) // a body is nobody's
	j.Append("ann", 1, []string{mailDir, path}, []byte("mail")).Applied()
	for _, touched := range [][]string{{mailDir}, nil} {
		ticket := j.Append("ann", 1, touched, nil)
		mustAppend(t, j, "ann", nil).Applied()
		if err := j.Flush("ann"); !errors.Is(err, ErrUnapplied) || errors.Is(err, ErrFailed) {
			t.Fatal(err)
		}
		if err := j.Flush("bob"); err != nil {
			t.Fatal(err)
		}
		ticket.Applied()
		if err := j.Flush("ann"); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeMail(disk, path, []byte("other mail")); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, "ann", nil)
	if err := j.Flush("ann"); !errors.Is(err, ErrUnapplied) {
		t.Fatal(err)
	}
	if err := hasMail(crash(disk, j, 1), path, []byte("other mail")); err != nil {
		t.Fatal(err)
	}
}
