package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A stream of files is, for each, a FileHead as one line of JSON and then exactly
// Size bytes; it ends with a head that has End or Error.

// FileHead says what follows.
type FileHead struct {
	Path TreePath `json:"path,omitempty"` // one that ends in "/" is a folder
	Size int64    `json:"size,omitempty"`
	// MTime is the modification time in whole seconds: INTERNALDATE.
	MTime int64 `json:"mtime,omitempty"`
	// Digest, where it is given, is the hex SHA-256 of the bytes.
	Digest string `json:"digest,omitempty"`
	End    bool   `json:"end,omitempty"`
	Error  *Error `json:"error,omitempty"`
}

// Folder tells whether it is one.
func (h FileHead) Folder() bool { return strings.HasSuffix(string(h.Path), "/") }

// WriteHead writes a head; after one of a file its bytes must follow.
func WriteHead(w io.Writer, h FileHead) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// maxHead bounds a head in bytes: a path is not longer than the system takes.
const maxHead = 64 << 10

// FileReader reads a stream of files. Not safe for concurrent use.
type FileReader struct {
	r    *bufio.Reader
	rest io.LimitedReader // of the file last given
}

// NewFileReader reads from r.
func NewFileReader(r io.Reader) *FileReader {
	br := bufio.NewReaderSize(r, maxHead)
	return &FileReader{r: br, rest: io.LimitedReader{R: br}}
}

// Next gives the next file, whose bytes the reader has until the next call;
// io.EOF after the end of the stream. A stream that breaks off is an error.
func (f *FileReader) Next() (FileHead, io.Reader, error) {
	var h FileHead
	if _, err := io.Copy(io.Discard, &f.rest); err != nil || f.rest.N > 0 {
		return h, nil, broken(err)
	}
	line, err := f.r.ReadSlice('\n')
	if err != nil {
		return h, nil, broken(err)
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return h, nil, fmt.Errorf("head of a file: %w", err)
	}
	switch {
	case h.Error != nil:
		return h, nil, h.Error
	case h.End:
		return h, nil, io.EOF
	case h.Size < 0 || h.Path == "" || h.Folder() && h.Size > 0:
		return h, nil, fmt.Errorf("file %q of %d bytes: malformed", h.Path, h.Size)
	}
	f.rest.N = h.Size
	return h, &f.rest, nil
}

func broken(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("a stream of files broke off: %w", err)
}
