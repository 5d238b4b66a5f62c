// Package sftp copies one user's tree between backends: SFTP (draft-ietf-secsh-
// filexfer-02, by pkg/sftp) over the cluster's own mutual TLS (ALPN
// waypost-sftp/1) instead of SSH, so that one set of certificates decides who
// may do what, and so that no SSH window bounds the speed.
//
// The source offers exactly one user's tree, read-only, to the backend that
// the directory's journal names as the target of that user's move; whether it
// does is decided by the caller (Server.Open). The client opens a connection
// with one JSON line naming user and epoch, answered by one JSON line.
//
// Besides the tree's files there are two names to ask through, so that neither what
// is the same nor each small file costs a round trip: the source's manifest, as far as
// it differs from the target's, and bundles of many files (bundle.go). A source of
// before does not announce them; its files come one by one, by its whole manifest.
//
// # What survives
//
// A Pull may be broken off anywhere, by an error or the end of a process or the
// machine, and another one goes on: files that were synced are known by the
// staging's Tracker, others are read and synced again, and long files go on where
// they ended. When Run returns nil, all of staging is durable, names included.
package sftp

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"

	"waypost/backend/control"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/wire"
)

// hello opens a connection.
type hello struct {
	User  director.User  `json:"user"`
	Epoch director.Epoch `json:"epoch"`
}

// welcome answers it; Error empty means yes.
type welcome struct {
	Error string `json:"error,omitempty"`
	// Version 2 has the names of bundle.go.
	Version int `json:"version,omitempty"`
}

const version = 2

const (
	helloTimeout = 10 * time.Second
	// idleTimeout ends a connection whose mover is gone. A pass asks
	// constantly while it runs.
	idleTimeout = 5 * time.Minute
)

// Tree is a user's at the source.
type Tree interface {
	// Root is the folder of the user's tree.
	Root() string
	// Delta brings the manifest up to date and answers a query.
	Delta(ctx context.Context, q manifest.Query) (manifest.Delta, error)
	// Learn is told the digest of a file that was read whole.
	Learn(path control.TreePath, at manifest.Stamp, d manifest.Digest)
}

// Server serves trees to movers.
type Server struct {
	// Open decides: the user's tree, if from may read it for the move whose busy
	// epoch is epoch.
	Open func(ctx context.Context, from cluster.Peer, u director.User, epoch director.Epoch) (Tree, error)
	Log  *slog.Logger
}

// Serve handles one connection until it ends.
func (s *Server) Serve(ctx context.Context, c *tls.Conn, from cluster.Peer) {
	if err := s.serve(ctx, c, from); err != nil && !errors.Is(err, io.EOF) {
		s.Log.Info("sftp connection ended", "peer", from.String(), "error", err)
	}
}

func (s *Server) serve(ctx context.Context, c *tls.Conn, from cluster.Peer) error {
	_ = c.SetDeadline(time.Now().Add(helloTimeout))
	r := bufio.NewReader(c)
	var h hello
	if err := wire.Read(r, &h); err != nil {
		return err
	}
	u, err := director.ParseUser(string(h.User))
	var user Tree
	var root *os.Root
	if err == nil {
		if user, err = s.Open(ctx, from, u, h.Epoch); err == nil {
			root, err = os.OpenRoot(user.Root())
		}
	}
	if err != nil {
		return errors.Join(err, wire.Write(c, welcome{Error: err.Error()}))
	}
	defer root.Close()
	if err := wire.Write(c, welcome{Version: version}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	t := &tree{Tree: user, root: root, ctx: ctx}
	srv := sftp.NewRequestServer(rolling{c, r}, sftp.Handlers{FileGet: t, FilePut: t, FileCmd: t, FileList: t}, sftp.WithRSAllocator(), sftp.WithRSMaxTxPacket(packet))
	defer srv.Close()
	return srv.Serve()
}

// rolling reads what was buffered behind the hello first, and moves the
// deadline at each use.
type rolling struct {
	c net.Conn
	r io.Reader
}

func (c rolling) Read(p []byte) (int, error) {
	_ = c.c.SetReadDeadline(time.Now().Add(idleTimeout))
	return c.r.Read(p)
}

func (c rolling) Write(p []byte) (int, error) {
	_ = c.c.SetWriteDeadline(time.Now().Add(idleTimeout))
	return c.c.Write(p)
}

func (c rolling) Close() error { return c.c.Close() }

// tree is one user's folder, read-only. os.Root keeps every path, and every
// symbolic link in it, inside.
type tree struct {
	Tree
	root *os.Root
	ctx  context.Context // of the connection
}

func rel(p string) string {
	if p = strings.TrimPrefix(path.Clean("/"+p), "/"); p == "" {
		return "."
	}
	return p
}

// Fileread opens a file for reading.
func (t *tree) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	f, err := t.root.Open(rel(r.Filepath))
	if err != nil {
		return nil, err
	}
	return f, nil // the library closes what has a Close
}

// Filewrite refuses: a source is never written to.
func (t *tree) Filewrite(*sftp.Request) (io.WriterAt, error) {
	return nil, sftp.ErrSSHFxPermissionDenied
}

// OpenFile opens what is written and read: only the names to ask through.
func (t *tree) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) {
	x, err := t.exchange(r.Filepath)
	if err != nil {
		return nil, sftp.ErrSSHFxPermissionDenied
	}
	return x, nil
}

// Filecmd refuses likewise.
func (t *tree) Filecmd(*sftp.Request) error { return sftp.ErrSSHFxPermissionDenied }

// Filelist lists and stats, for an operator with an SFTP client in hand.
func (t *tree) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	switch r.Method {
	case "List":
		f, err := t.root.Open(rel(r.Filepath))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		infos, err := f.Readdir(-1)
		return listing(infos), err
	case "Stat", "Lstat":
		st, err := t.root.Lstat(rel(r.Filepath))
		if err != nil {
			return nil, err
		}
		return listing{st}, nil
	default:
		return nil, sftp.ErrSSHFxOpUnsupported
	}
}

type listing []fs.FileInfo

// ListAt gives a part of the listing.
func (l listing) ListAt(out []fs.FileInfo, at int64) (int, error) {
	if at >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(out, l[at:])
	if n < len(out) {
		return n, io.EOF
	}
	return n, nil
}

// Conn is a connection to a source.
type Conn struct {
	*sftp.Client
	// Version is the source's.
	Version int
}

// Dial opens one SFTP connection to the source of u's move.
func Dial(ctx context.Context, id *cluster.Identity, node string, source director.BackendID, u director.User, epoch director.Epoch) (*Conn, error) {
	c, err := id.Dial(ctx, node, cluster.Peer{Role: cluster.RoleBackend, ID: string(source)}, cluster.ProtoSFTP)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*Conn, error) {
		c.Close()
		return nil, fmt.Errorf("sftp to %s for %s: %w", source, u, err)
	}
	_ = c.SetDeadline(time.Now().Add(helloTimeout))
	if err := wire.Write(c, hello{User: u, Epoch: epoch}); err != nil {
		return fail(err)
	}
	r := bufio.NewReader(c)
	var w welcome
	if err := wire.Read(r, &w); err != nil {
		return fail(err)
	}
	if w.Error != "" {
		return fail(errors.New(w.Error))
	}
	rw := rolling{c, r}
	options := []sftp.ClientOption{sftp.UseConcurrentReads(true), sftp.MaxConcurrentRequestsPerFile(32)}
	if w.Version >= version {
		options = append(options, sftp.MaxPacketUnchecked(packet))
	}
	cl, err := sftp.NewClientPipe(rw, rw, options...)
	if err != nil {
		return fail(err)
	}
	return &Conn{cl, w.Version}, nil
}
