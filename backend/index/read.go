package index

import (
	"fmt"
	"io"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/mime"
)

// Read reads a message, which has CRLF line ends, and gives what an index keeps of
// it. It reads it through once, then the beginning of the part that is previewed
// again, in bounded memory. Only errors of r come back.
func Read(r io.ReadSeeker, arrived time.Time) (*mailbox.Meta, error) {
	fields, err := headerOf(r)
	if err != nil {
		return nil, fmt.Errorf("read message's header: %w", err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read message's structure: %w", err)
	}
	root, err := mime.Scan(r)
	if err != nil {
		return nil, fmt.Errorf("read message's structure: %w", err)
	}
	text, err := preview(r, root)
	if err != nil {
		return nil, fmt.Errorf("read message's text: %w", err)
	}
	return &mailbox.Meta{
		Arrived: arrived, Root: root, Fields: fields, Preview: text, Attachment: hasAttachment(root),
	}, nil
}

func headerOf(r io.ReadSeeker) ([]mime.Field, error) {
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	keep := func(name string) bool { _, ok := keptPlace[name]; return ok }
	return mime.RawFields(r, keep, mime.FieldLimits{Field: maxFieldBytes, All: maxHeaderBytes, Count: maxFields})
}
