package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"
	"sync"
	"time"

	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/auth"
)

const (
	maxImportLine = 64 << 10
	// importWorkers is how many lines are worked on at once: each waits for
	// fsyncs at its home and in the directory.
	importWorkers = 16
	// importLineWait is how long the next line may take to come.
	importLineWait = 10 * time.Minute
)

// importUsers makes users as their lines come in, and answers each line. It
// stops at what it cannot go on after: a line that is too long, a caller that
// is gone, this director's end.
func (s *Server) importUsers(ctx context.Context, c *call) (any, error) {
	if kind, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type")); err != nil || kind != "application/x-ndjson" {
		return nil, fmt.Errorf("content type %q: want application/x-ndjson: %w", c.r.Header.Get("Content-Type"), director.ErrInvalid)
	}
	if err := c.rc.EnableFullDuplex(); err != nil {
		return nil, fmt.Errorf("import: answers cannot be sent while lines come: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := c.stream()
	in := bufio.NewScanner(c.r.Body)
	in.Buffer(nil, maxImportLine)

	places := make(chan struct{}, importWorkers)
	var working sync.WaitGroup
	created := 0
	var mu sync.Mutex // guards created
	for n := 1; ctx.Err() == nil && nextLine(c, in); n++ {
		text := bytes.Clone(bytes.TrimSpace(in.Bytes()))
		if len(text) == 0 {
			continue
		}
		places <- struct{}{}
		working.Go(func() {
			defer func() { <-places }()
			res := s.importLine(ctx, text)
			res.Line = n
			if res.Result == admin.ImportCreated {
				mu.Lock()
				created++
				mu.Unlock()
				s.log.Info("user imported", "by", c.by.String(), "user", res.User, "home", res.Home)
			}
			if err := out.send(res, true); err != nil {
				cancel(err)
			}
		})
	}
	c.received()
	working.Wait()
	c.object = fmt.Sprintf("%d users created", created)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err := in.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			err = fmt.Errorf("a line of more than %d bytes: %w", maxImportLine, director.ErrInvalid)
		}
		return nil, fmt.Errorf("import: %w", err)
	}
	return nil, nil
}

// nextLine gives the caller time for one more line.
func nextLine(c *call, in *bufio.Scanner) bool {
	return c.rc.SetReadDeadline(time.Now().Add(importLineWait)) == nil && in.Scan()
}

// importLine does one line.
func (s *Server) importLine(ctx context.Context, text []byte) admin.ImportResult {
	var req admin.CreateUser
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return failedLine("", fmt.Errorf("%w: %w", director.ErrInvalid, err))
	}
	view, err := s.createUser(ctx, req)
	if err == nil {
		return admin.ImportResult{User: string(view.User), Result: admin.ImportCreated, Home: view.Home}
	}
	if !errors.Is(err, director.ErrExists) {
		return failedLine(req.User, err)
	}
	u, err := director.ParseUser(req.User)
	if err != nil {
		return failedLine(req.User, err)
	}
	home, err := s.sameUser(ctx, u, req)
	if err == nil {
		err = s.tookOver(ctx, u, home, req.Maildir)
	}
	if err != nil {
		return failedLine(req.User, err)
	}
	return admin.ImportResult{User: string(u), Result: admin.ImportExists, Home: home}
}

func failedLine(user string, err error) admin.ImportResult {
	e := admin.AsError(err)
	return admin.ImportResult{User: user, Result: admin.ImportFailed, Code: e.Code, Text: e.Text}
}

// sameUser gives the home of a user who is just as req would have it, or
// ErrExists with what differs.
func (s *Server) sameUser(ctx context.Context, u director.User, req admin.CreateUser) (director.BackendID, error) {
	loc, err := s.dir.Location(ctx, u)
	if err != nil {
		return "", err
	}
	v, err := s.dir.Account(ctx, u)
	if err != nil {
		return "", err
	}
	have := v.Value
	var differs []string
	for name, same := range map[string]bool{
		"home":           req.Home == "" || req.Home == loc.Value.Home,
		"quota_bytes":    req.QuotaBytes == have.QuotaBytes,
		"quota_messages": req.QuotaMessages == have.QuotaMessages,
		"disabled":       req.Disabled == have.Disabled,
		"services":       strings.Join(normalServices(req.Services), " ") == strings.Join(have.Services, " "),
		"forward":        len(req.Forward) == 0 || s.sameForward(ctx, req, have),
		"reply":          req.Reply == nil || sameReply(*req.Reply, have.Reply),
		"group":          req.Group == "" || req.Group == have.Group,
		"tags":           len(req.Tags) == 0 || slices.Equal(slices.Sorted(slices.Values(req.Tags)), have.Tags),
	} {
		if !same {
			differs = append(differs, name)
		}
	}
	same, err := s.samePassword(ctx, have.Hash, req)
	if err != nil {
		return "", err
	}
	if !same {
		differs = append(differs, "password")
	}
	if len(differs) > 0 {
		return "", fmt.Errorf("user %s, with another %s: %w", u, strings.Join(differs, ", "), director.ErrExists)
	}
	return loc.Value.Home, nil
}

func (s *Server) sameForward(ctx context.Context, req admin.CreateUser, have director.Account) bool {
	to, err := s.checkMembers(ctx, req.Forward)
	return err == nil && slices.Equal(to, have.Forward) && req.ForwardOnly == have.ForwardOnly
}

func sameReply(a director.AutoReply, b *director.AutoReply) bool {
	if b == nil || !a.From.Equal(b.From) || !a.Until.Equal(b.Until) {
		return false
	}
	a.From, a.Until = b.From, b.Until // the zone is no difference
	return a == *b
}

func (s *Server) samePassword(ctx context.Context, hash string, req admin.CreateUser) (bool, error) {
	if req.Password == "" || hash == "" {
		return req.Password == "" && req.PasswordHash == hash, nil
	}
	select {
	case s.hashing <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { <-s.hashing }()
	return auth.Verify(ctx, hash, req.Password)
}
