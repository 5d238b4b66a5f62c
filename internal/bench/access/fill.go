package access

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// bytesEach is the room that a message may take on the disk with its names in all copies and
// indexes of both servers, with some to spare.
const bytesEach = 24 << 10

var maildirFolders = [...]string{"cur", "new", "tmp"}

// makeMaildir makes a Maildir of n messages, named as Dovecot names them: with both sizes, and
// flags; all are in cur.
func makeMaildir(ctx context.Context, dir string, n int) error {
	for _, f := range maildirFolders {
		if err := os.MkdirAll(filepath.Join(dir, f), 0o755); err != nil {
			return err
		}
	}
	for i := range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		text := message(i)
		at := sentAt(i)
		wire := len(text) + bytes.Count(text, []byte("\n"))
		name := fmt.Sprintf("%d.M%06dP%d.bench,S=%d,W=%d:2,%s", at.Unix(), i%1000000, 1000+i%7, len(text), wire, flagLetters(i))
		path := filepath.Join(dir, "cur", name)
		// Other users may read it: the servers' copies are the same file.
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
		if err := os.Chtimes(path, at, at); err != nil {
			return err
		}
	}
	return nil
}

// flagLetters are a message's: most are read, some answered or flagged.
func flagLetters(n int) string {
	var s string
	if n%13 == 4 {
		s += "F"
	}
	if n%7 == 1 {
		s += "R"
	}
	if n%8 != 0 {
		s += "S"
	}
	return s
}

// linkMaildir gives a server its copy: the files are the same, and nobody changes a message's
// file; the names are its own.
func linkMaildir(ctx context.Context, from, to string) error {
	for _, f := range maildirFolders {
		if err := os.MkdirAll(filepath.Join(to, f), 0o700); err != nil {
			return err
		}
	}
	return filepath.WalkDir(filepath.Join(from, "cur"), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return ctx.Err()
		}
		return os.Link(path, filepath.Join(to, "cur", e.Name()))
	})
}
