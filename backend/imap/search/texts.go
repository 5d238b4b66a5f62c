package search

import (
	"io"

	"waypost/backend/mime"
)

// TextSink takes what BODY and TEXT look into.
type TextSink interface {
	// WantsHeader and WantsText are asked before anything is read.
	WantsHeader() bool
	WantsText() bool
	// Header takes a field as it reads: "Subject: text", with its name as it is compared.
	Header(text string)
	// Text takes the text of a part as UTF-8, and reads as much of it as it likes.
	Text(r io.Reader) error
}

// Texts gives a sink what BODY and TEXT look into, and nothing else: an index of texts that
// is made by it leaves nothing out. open gives the message from an offset on, as far as
// the end.
func Texts(root *mime.Part, open func(at int64) (io.Reader, error), sink TextSink) error {
	var err error
	root.Walk(func(p *mime.Part) {
		// RFC 9051, Section 6.4.4: TEXT, MIME header fields included.
		if err == nil && p.Header.Len() > 0 && sink.WantsHeader() {
			err = headerOf(p, open, sink)
		}
		if err == nil && textual(p) && sink.WantsText() {
			var r io.Reader
			if r, err = open(p.Body.Start); err == nil {
				err = sink.Text(p.Text(io.LimitReader(r, p.Body.Len())))
			}
		}
	})
	return err
}

func headerOf(p *mime.Part, open func(at int64) (io.Reader, error), sink TextSink) error {
	r, err := open(p.Header.Start)
	if err != nil {
		return err
	}
	fields, err := mime.Fields(io.LimitReader(r, p.Header.Len()))
	if err != nil {
		return err
	}
	for _, f := range fields {
		sink.Header(f.Name + ": " + f.Value)
	}
	return nil
}

// textual: a part that readers read. Reports (message/delivery-status) are of their kind.
func textual(p *mime.Part) bool {
	return p.Type == "text" || p.Type == "message" && p.Message == nil
}

// inMessage looks for the strings of a run.
type inMessage struct{ *candidate }

// WantsHeader implements TextSink.
func (c inMessage) WantsHeader() bool { return c.inHeader != nil && !c.inHeader.Done() }

// WantsText implements TextSink.
func (c inMessage) WantsText() bool { return !c.inBody.Done() }

// Header implements TextSink.
func (c inMessage) Header(text string) { c.inHeader.Text(text) }

// Text implements TextSink.
func (c inMessage) Text(r io.Reader) error { return c.inBody.Scan(r) }
