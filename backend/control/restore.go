package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"waypost/director"
)

// Paths of restoring, all POST, for admins and directors. What is put lies apart
// until it is sealed, or exchanged for the live tree: nobody is served from it.
const (
	// PathRestoreHave (RestoreRequest → RestoreHave): what an earlier, broken off
	// restore has put already.
	PathRestoreHave = "/v1/restore/have"
	// PathRestorePut (a stream of files, the first a head with the user as Path →
	// RestorePutReply): each file is durable before it has its name.
	PathRestorePut = "/v1/restore/put"
	// PathRestoreSeal (RestoreSealRequest → FenceReply): what was put equals the
	// manifest, is made safe for clients that knew the mailbox later than the
	// backup did, and is sealed at the epoch that this backend's own read of the
	// record allows: of a user who is not there (R12), whose home is lost, or whose
	// home this is without a mailbox.
	PathRestoreSeal = "/v1/restore/seal"
	// PathRestoreExchange (RestoreExchangeRequest → RestoreExchanged): at the home,
	// held busy at Epoch without a move: the live tree and what was put change
	// places at once, under a freeze; the old one goes to the trash.
	PathRestoreExchange = "/v1/restore/exchange"
)

// RestoreRequest names the user. Fresh: drop what there is.
type RestoreRequest struct {
	User  director.User `json:"user"`
	Fresh bool          `json:"fresh,omitempty"`
}

// RestoreHave lists files that are there whole, by path and size.
type RestoreHave struct {
	Files []ManifestEntry `json:"files"`
}

// RestorePutReply counts what was put.
type RestorePutReply struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// RestoreSealRequest asks for the end of a restore.
type RestoreSealRequest struct {
	User director.User `json:"user"`
	// Digest is that of the backup's manifest (ManifestSummary.Digest).
	Digest string `json:"digest"`
	// Taken is when the backup was made: how far UIDNEXT must jump.
	Taken time.Time `json:"taken"`
	// Empty: an empty mailbox instead, for a user of whom there is no backup.
	Empty bool `json:"empty,omitempty"`
}

// RestoreExchangeRequest asks for an exchange. Exact: messages that are in the
// mailbox now, and not in the backup, are not kept in it.
type RestoreExchangeRequest struct {
	User   director.User  `json:"user"`
	Epoch  director.Epoch `json:"epoch"`
	Digest string         `json:"digest"`
	Taken  time.Time      `json:"taken"`
	Exact  bool           `json:"exact,omitempty"`
}

// RestoreExchanged tells what an exchange did.
type RestoreExchanged struct {
	// Kept are messages that were in the mailbox, and not in the backup.
	Kept int `json:"kept"`
}

// RestorePut sends files: put is called once to write them with WriteHead and
// their bytes; the head of the user and the end are RestorePut's own.
func (c *Client) RestorePut(ctx context.Context, u director.User, put func(io.Writer) error) (RestorePutReply, error) {
	var reply RestorePutReply
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		err := WriteHead(w, FileHead{Path: TreePath(u)})
		if err == nil {
			err = put(w)
		}
		if err == nil {
			err = WriteHead(w, FileHead{End: true})
		}
		w.CloseWithError(err) // nil: io.EOF
	}()
	defer func() { r.Close(); <-written }()
	quiet := time.AfterFunc(putSilence, func() { cancel(errSilent) })
	defer quiet.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+PathRestorePut, &putReader{r, quiet})
	if err != nil {
		return reply, fmt.Errorf("%s: %w", PathRestorePut, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return reply, fmt.Errorf("%s: %w", PathRestorePut, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		var e Error
		if json.Unmarshal(text, &e) == nil && e.Code != "" {
			return reply, fmt.Errorf("%s: %w", PathRestorePut, &e)
		}
		return reply, fmt.Errorf("%s: answer %s: %s", PathRestorePut, resp.Status, strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4096)).Decode(&reply); err != nil {
		return reply, fmt.Errorf("%s: answer: %w", PathRestorePut, err)
	}
	return reply, nil
}

// putSilence is how long the other side may take nothing: its disk may be slow.
const putSilence = 2 * time.Minute

type putReader struct {
	*io.PipeReader
	quiet *time.Timer
}

func (p *putReader) Read(b []byte) (int, error) {
	p.quiet.Reset(putSilence)
	return p.PipeReader.Read(b)
}
