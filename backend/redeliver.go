package backend

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/lmtp"
	"waypost/internal/wire"
)

// redeliver sends one message file to the user's home by LMTP, as an mx with
// accepted mail would. Its delivery id comes from the file's unique name, so
// that doing it again is a no-op at the home.
func (b *Server) redeliver(ctx context.Context, path, rel string, name director.User, rec director.Record) error {
	if rec.State != director.Active {
		return errors.New("the user is being moved")
	}
	home, err := b.dir.Backend(ctx, rec.Home)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	conn, err := b.id.Dial(ctx, home.Value.Node, cluster.Peer{Role: cluster.RoleBackend, ID: string(rec.Home)}, cluster.ProtoLMTP)
	if err != nil {
		return err
	}
	c := lmtp.New(conn, lmtp.Options{})
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := c.Hello(b.cfg.Hostname); err != nil {
		return err
	}
	unique, _, _ := strings.Cut(filepath.Base(rel), ":2,")
	unique, _, _ = strings.Cut(unique, ",")
	mail, rcpt, err := c.MailRcpt("", lmtp.MailParams{EightBit: true, UTF8: true, Extra: []lmtp.Param{{Key: wire.ParamDelivery, Value: "extra-" + unique}}},
		[]lmtp.Recipient{{To: string(name), Params: []lmtp.Param{
			{Key: wire.ParamHome, Value: string(rec.Home)},
			{Key: wire.ParamEpoch, Value: strconv.FormatUint(uint64(rec.Epoch), 10)},
			{Key: wire.ParamAccepted, Value: "1"},
		}}})
	if err != nil {
		return err
	}
	if !mail.OK() || !rcpt[0].OK() {
		return fmt.Errorf("home %s answered %s / %s", rec.Home, mail, rcpt[0])
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if err := copyCRLF(w, f); err != nil {
		return err
	}
	replies, err := w.Finish()
	if err != nil {
		return err
	}
	if !replies[0].OK() {
		return fmt.Errorf("home %s answered %s", rec.Home, replies[0])
	}
	return c.Quit()
}

// copyCRLF copies a stored message with the line ends of the wire.
func copyCRLF(w io.Writer, r io.Reader) error {
	in := bufio.NewReaderSize(r, 64<<10)
	out := bufio.NewWriterSize(w, 64<<10)
	var last byte
	for {
		line, err := in.ReadSlice('\n')
		if n := len(line); n > 0 && line[n-1] == '\n' {
			body := line[:n-1]
			if cr := bytes.HasSuffix(body, []byte{'\r'}) || len(body) == 0 && last == '\r'; cr {
				out.Write(line)
			} else {
				out.Write(body)
				out.WriteString("\r\n")
			}
			last = '\n'
		} else if n > 0 {
			out.Write(line)
			last = line[n-1]
		}
		switch {
		case err == io.EOF:
			return out.Flush()
		case err != nil && err != bufio.ErrBufferFull:
			return err
		}
	}
}
