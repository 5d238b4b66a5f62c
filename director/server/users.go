package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"waypost/backend/control"
	"waypost/director"
	"waypost/director/admin"
	"waypost/internal/auth"
	"waypost/internal/cluster"
)

const (
	// homeTries is how many backends are tried for a new user whose first choice
	// turns out to be away.
	homeTries = 3
	// settleWait is how long a change waits for this director's own memory, so
	// that whoever made it finds it in the next list.
	settleWait = 2 * time.Second
)

func (s *Server) postUser(ctx context.Context, c *call) (any, error) {
	req, err := decode[admin.CreateUser](c)
	if err != nil {
		return nil, err
	}
	c.object = req.User
	return s.createUser(ctx, req)
}

// createUser checks, hashes, prepares and publishes.
func (s *Server) createUser(ctx context.Context, req admin.CreateUser) (admin.User, error) {
	u, err := checkCreate(req)
	if err != nil {
		return admin.User{}, err
	}
	if _, err := s.dir.Domain(ctx, u.Domain()); err != nil {
		if errors.Is(err, director.ErrNotFound) {
			err = fmt.Errorf("domain %s is not one of this cluster: add it first: %w", u.Domain(), director.ErrNotFound)
		}
		return admin.User{}, err
	}
	prev, live, err := s.vacancy(ctx, u)
	if err != nil {
		return admin.User{}, err
	}
	if live != nil {
		if req.Home != "" && req.Home != live.Home || req.Maildir != nil {
			return admin.User{}, fmt.Errorf("user %s has a mailbox at %s already, and no account: leave the home and the mail out: %w", u, live.Home, director.ErrIllegal)
		}
		req.Home = live.Home
	}
	acct := director.Account{
		Hash: req.PasswordHash, QuotaBytes: req.QuotaBytes, QuotaMessages: req.QuotaMessages,
		Disabled: req.Disabled, Services: normalServices(req.Services), Created: s.uniqueNow(),
		Forward: req.Forward, ForwardOnly: req.ForwardOnly, Reply: req.Reply, Group: req.Group,
		Tags: slices.Sorted(slices.Values(req.Tags)),
	}
	if err := s.checkRules(ctx, &acct); err != nil {
		return admin.User{}, fmt.Errorf("user %s: %w", u, err)
	}
	if req.Password != "" {
		if acct.Hash, err = s.hash(ctx, req.Password); err != nil {
			return admin.User{}, err
		}
	}
	if acct.Group != "" {
		leave, err := s.alone(ctx)
		if err != nil {
			return admin.User{}, err
		}
		defer leave()
		if req.Home, err = s.placeInGroup(ctx, u, acct.Group, req.Home); err != nil {
			return admin.User{}, err
		}
	}
	rec, err := s.enter(ctx, u, prev, live, req, acct)
	if err != nil {
		return admin.User{}, err
	}
	s.settle(ctx, u, rec)
	if acct.Group != "" {
		s.settleGroup(ctx, u, acct.Group)
	}
	return userView(u, rec, acct), nil
}

// enter makes the user, or gives one the account that he lacks.
func (s *Server) enter(ctx context.Context, u director.User, prev, live *director.Record, req admin.CreateUser, acct director.Account) (director.Record, error) {
	if live != nil {
		rec, err := s.dir.GiveAccount(ctx, u, acct)
		if err == nil {
			s.log.Info("a user without an account has one again", "user", u, "record", rec.String())
		}
		return rec, err
	}
	rec, err := s.publish(ctx, u, prev, req.Home, acct, req.Maildir)
	if err == nil {
		err = s.tookOver(ctx, u, rec.Home, req.Maildir)
	}
	return rec, err
}

// checkCreate reads the user's name and checks all that needs no directory.
func checkCreate(req admin.CreateUser) (director.User, error) {
	u, err := director.ParseUser(req.User)
	switch {
	case err != nil:
		return "", err
	case req.Password != "" && req.PasswordHash != "":
		return "", fmt.Errorf("user %s: give a password or its hash, not both: %w", u, director.ErrInvalid)
	case req.Home != "" && director.ValidBackendID(req.Home) != nil:
		return "", director.ValidBackendID(req.Home)
	}
	if err := errors.Join(checkHash(req.PasswordHash), checkMaildir(req.Maildir, req.Home)); err != nil {
		return "", fmt.Errorf("user %s: %w", u, err)
	}
	if err := errors.Join(checkQuota(req.QuotaBytes, req.QuotaMessages), checkServices(req.Services), director.ValidTags(req.Tags)); err != nil {
		return "", fmt.Errorf("user %s: %w", u, err)
	}
	return u, nil
}

func checkHash(hash string) error {
	if hash == "" {
		return nil
	}
	if err := auth.Supported(hash); err != nil {
		return fmt.Errorf("password hash: %w: %w", err, director.ErrInvalid)
	}
	return nil
}

func checkQuota(bytes, messages int64) error {
	if bytes < 0 || messages < 0 {
		return fmt.Errorf("quota below 0: %w", director.ErrInvalid)
	}
	return nil
}

func checkServices(list []string) error {
	for _, name := range list {
		if !slices.Contains(admin.Services(), name) {
			return fmt.Errorf("service %q: want some of %s: %w", name, strings.Join(admin.Services(), ", "), director.ErrInvalid)
		}
	}
	return nil
}

// checkRules checks an account's forwards and reply, and gives the forwards their
// canonical form.
func (s *Server) checkRules(ctx context.Context, a *director.Account) error {
	if err := a.Validate(); err != nil || len(a.Forward) == 0 {
		return err
	}
	to, err := s.checkMembers(ctx, a.Forward)
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	a.Forward = to
	return nil
}

// normalServices sorts, so that equal sets compare equal; all is none.
func normalServices(list []string) []string {
	out := slices.Compact(slices.Sorted(slices.Values(list)))
	if len(out) == 0 || len(out) == len(admin.Services()) {
		return nil
	}
	return out
}

// vacancy gives the tombstone that a new user follows, nil without one; or, as live, the record of
// one who has come back without an account (R10: backends know homes, and nothing of accounts).
func (s *Server) vacancy(ctx context.Context, u director.User) (prev, live *director.Record, err error) {
	v, err := s.dir.Location(ctx, u)
	switch {
	case errors.Is(err, director.ErrNotFound):
		return nil, nil, nil
	case err != nil:
		return nil, nil, err
	case v.Value.State == director.Deleted:
		return &v.Value, nil, nil
	}
	_, err = s.dir.Account(ctx, u)
	switch {
	case errors.Is(err, director.ErrNotFound):
		return nil, &v.Value, nil
	case err != nil:
		return nil, nil, err
	}
	return nil, nil, fmt.Errorf("user %s: %w", u, director.ErrExists)
}

// hash hashes in turn; the password is in no error.
func (s *Server) hash(ctx context.Context, password string) (string, error) {
	select {
	case s.hashing <- struct{}{}:
	case <-ctx.Done():
		return "", fmt.Errorf("wait to hash the password: %w: %w", ctx.Err(), director.ErrUnavailable)
	}
	defer func() { <-s.hashing }()
	h, err := auth.Hash(password)
	if err != nil {
		return "", fmt.Errorf("password: %w: %w", err, director.ErrInvalid)
	}
	return h, nil
}

// errPrepare marks that a home could not be prepared: another may do.
var errPrepare = errors.New("the mailbox could not be made")

// publish makes the mailbox at the home, of mail if that is not nil, and then the
// record (R12).
func (s *Server) publish(ctx context.Context, u director.User, prev *director.Record, home director.BackendID, acct director.Account, mail *admin.Maildir) (director.Record, error) {
	if home != "" {
		b, err := s.dir.Backend(ctx, home)
		if err != nil {
			return director.Record{}, fmt.Errorf("home of %s: %w", u, err)
		}
		if b.Value.State != director.BackendActive {
			return director.Record{}, fmt.Errorf("home of %s: backend %s is %s and gets no new users: %w", u, home, b.Value.State, director.ErrIllegal)
		}
		if !director.MayLive(acct.Tags, b.Value.Tags) {
			return director.Record{}, fmt.Errorf("home of %s: backend %s has not all of the tags %s: %w", u, home, strings.Join(acct.Tags, " "), director.ErrIllegal)
		}
		return s.publishAt(ctx, u, prev, home, b.Value, acct, mail)
	}
	tried := map[director.BackendID]bool{}
	for {
		r, err := s.placer.place(func(t *tally) []candidate { return s.candidates(t, acct.Tags) }, tried)
		if err != nil && len(acct.Tags) > 0 {
			err = fmt.Errorf("of those with the tags %s, %w", strings.Join(acct.Tags, " "), err)
		}
		if err != nil {
			return director.Record{}, fmt.Errorf("home of %s: %w", u, err)
		}
		b, _ := s.cache.Backend(r.home)
		rec, err := s.publishAt(ctx, u, prev, r.home, b, acct, nil)
		r.end(err == nil)
		if err == nil || !errors.Is(err, errPrepare) || len(tried)+1 >= homeTries || ctx.Err() != nil {
			return rec, err
		}
		s.log.Warn("another home is tried for a new user", "user", u, "backend", r.home, "error", err)
		tried[r.home] = true
	}
}

func (s *Server) publishAt(ctx context.Context, u director.User, prev *director.Record, home director.BackendID, b director.Backend, acct director.Account, mail *admin.Maildir) (director.Record, error) {
	rec, err := director.Create(prev, home)
	if err != nil {
		return rec, err
	}
	if err := s.letGo(ctx, u, prev, home); err != nil {
		return rec, err
	}
	switch {
	case mail != nil && b.Kind != director.KindWaypost:
		return rec, fmt.Errorf("user %s: backend %s is of kind %s and keeps its own mail: %w", u, home, b.Kind, director.ErrIllegal)
	case mail != nil:
		if err := s.takeOver(ctx, u, prev, home, b.Node, *mail); err != nil {
			return rec, err
		}
	case b.Kind == director.KindWaypost:
		if err := s.prepare(ctx, u, prev, home, b.Node); err != nil {
			return rec, err
		}
	}
	s.creating.RLock()
	defer s.creating.RUnlock()
	return rec, s.dir.CreateUser(ctx, u, rec, acct)
}

// letGo makes sure that the home of the former person of that name has seen the
// tombstone, where the next one is to live elsewhere: one that has not would go on serving
// its fence, and could not tell later why another is the home.
func (s *Server) letGo(ctx context.Context, u director.User, prev *director.Record, home director.BackendID) error {
	if prev == nil || prev.Home == home {
		return nil
	}
	former, err := s.dir.Backend(ctx, prev.Home)
	switch {
	case errors.Is(err, director.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("create user %s: %w", u, err)
	case former.Value.Kind != director.KindWaypost, former.Value.State == director.BackendLost:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.NodeTimeout)
	defer cancel()
	f, err := control.Call[control.FenceReply](ctx, s.nodes.client(backendPeer(prev.Home), former.Value.Node), control.PathLook, control.LookRequest{User: u})
	if err != nil {
		return fmt.Errorf("create user %s: its former home %s cannot be asked to let go: %w: %w", u, prev.Home, director.ErrUnavailable, err)
	}
	if f.State != control.FenceGone && f.State != control.FenceMissing {
		return fmt.Errorf("create user %s: its former home %s has not let go yet, its fence is %s: %w", u, prev.Home, f.State, director.ErrUnavailable)
	}
	return nil
}

// prepare has the home make an empty mailbox, sealed at the tombstone's epoch.
func (s *Server) prepare(ctx context.Context, u director.User, prev *director.Record, home director.BackendID, node string) error {
	req := control.PrepareRequest{User: u}
	if prev != nil {
		req.Epoch = prev.Epoch
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.NodeTimeout)
	defer cancel()
	_, err := control.Call[control.FenceReply](ctx, s.nodes.client(backendPeer(home), node), control.PathPrepare, req)
	if err != nil {
		return fmt.Errorf("create user %s: %w at %s: %w", u, errPrepare, home, err)
	}
	return nil
}

func backendPeer(id director.BackendID) cluster.Peer {
	return cluster.Peer{Role: cluster.RoleBackend, ID: string(id)}
}

// settle waits until this director's memory has the record, but not for long.
func (s *Server) settle(ctx context.Context, u director.User, rec director.Record) {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	if _, err := s.cache.WaitChange(ctx, u, rec.Epoch-1); err != nil {
		s.log.Debug("the cache lags", "user", u, "error", err)
	}
}

func (s *Server) getUser(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	view, err := s.readUser(ctx, u)
	if err != nil {
		return nil, err
	}
	s.addUsage(ctx, &view)
	return view, nil
}

// readUser reads all but the usage, linearizably.
func (s *Server) readUser(ctx context.Context, u director.User) (admin.User, error) {
	loc, err := s.dir.Location(ctx, u)
	if err != nil {
		return admin.User{}, fmt.Errorf("user %s: %w", u, err)
	}
	if loc.Value.State == director.Deleted {
		return admin.User{}, fmt.Errorf("user %s was deleted at epoch %d: %w", u, loc.Value.Epoch, director.ErrNotFound)
	}
	acct, err := s.dir.Account(ctx, u)
	if err != nil {
		return admin.User{}, fmt.Errorf("user %s: %w", u, err)
	}
	view := userView(u, loc.Value, acct.Value)
	m, err := s.dir.Move(ctx, u)
	if err != nil && !errors.Is(err, director.ErrNotFound) {
		return admin.User{}, fmt.Errorf("user %s: %w", u, err)
	}
	if err == nil && !m.Value.Phase.Finished() {
		move := admin.MoveOf(m.Value)
		view.Move = &move
	}
	return view, nil
}

func userView(u director.User, rec director.Record, acct director.Account) admin.User {
	services := acct.Services
	if services == nil {
		services = []string{}
	}
	return admin.User{
		User: u, Home: rec.Home, State: rec.State, Epoch: rec.Epoch,
		QuotaBytes: acct.QuotaBytes, QuotaMessages: acct.QuotaMessages, Disabled: acct.Disabled,
		HasPassword: acct.Hash != "", Services: services, Created: acct.Created,
		Forward: append([]string{}, acct.Forward...), ForwardOnly: acct.ForwardOnly, Reply: acct.Reply, Group: acct.Group,
		FullText: acct.FullText,
	}
}

// addUsage asks the home, for a short time.
func (s *Server) addUsage(ctx context.Context, view *admin.User) {
	b, err := s.dir.Backend(ctx, view.Home)
	switch {
	case err != nil:
		view.UsageError = err.Error()
		return
	case b.Value.Kind != director.KindWaypost:
		view.UsageError = fmt.Sprintf("a backend of kind %s tells no usage", b.Value.Kind)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.UsageTimeout)
	defer cancel()
	got, err := control.Call[control.UsageReply](ctx, s.nodes.client(backendPeer(view.Home), b.Value.Node), control.PathUsage, control.UserRequest{User: view.User})
	if err != nil {
		view.UsageError = fmt.Sprintf("the home %s did not tell: %v", view.Home, err)
		return
	}
	view.UsedBytes, view.UsedMessages, view.Sessions = &got.Bytes, &got.Messages, &got.Sessions
}

func (s *Server) listUsers(_ context.Context, c *call) (any, error) {
	q := c.r.URL.Query()
	domain, prefix, home := strings.ToLower(q.Get("domain")), strings.ToLower(q.Get("prefix")), director.BackendID(q.Get("home"))
	if err := s.cache.Ready(); err != nil {
		return nil, err
	}
	var found []director.User
	s.cache.Users(func(u director.User, r director.Record) bool {
		if r.State != director.Deleted && (domain == "" || u.Domain() == domain) && (home == "" || r.Home == home) && strings.HasPrefix(string(u), prefix) {
			found = append(found, u)
		}
		return true
	})
	slices.Sort(found)
	out := c.stream()
	for _, u := range found {
		rec, known, _ := s.cache.Location(u)
		if !known || rec.State == director.Deleted {
			continue // deleted meanwhile
		}
		acct, _, _ := s.cache.Account(u)
		if err := out.send(userView(u, rec, acct), false); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *Server) patchUser(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	req, err := decode[admin.UpdateUser](c)
	if err != nil {
		return nil, err
	}
	hash, err := s.newHash(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u, err)
	}
	change := func() error {
		return s.dir.UpdateAccount(ctx, u, func(a *director.Account) error {
			if err := applyUpdate(a, req, hash); err != nil {
				return err
			}
			if req.Forward == nil && req.ForwardOnly == nil && req.Reply == nil {
				return nil
			}
			return s.checkRules(ctx, a)
		})
	}
	if req.Group != nil {
		err = s.setGroup(ctx, u, *req.Group, change)
	} else {
		err = change()
	}
	if err != nil {
		return nil, err
	}
	return s.readUser(ctx, u)
}

// newHash is the hash that a change sets, nil for none.
func (s *Server) newHash(ctx context.Context, req admin.UpdateUser) (*string, error) {
	switch {
	case req.Password != nil && req.PasswordHash != nil:
		return nil, fmt.Errorf("give a password or its hash, not both: %w", director.ErrInvalid)
	case req.Password != nil:
		h, err := s.hash(ctx, *req.Password)
		return &h, err
	case req.PasswordHash != nil:
		return req.PasswordHash, checkHash(*req.PasswordHash)
	}
	return nil, nil
}

func applyUpdate(a *director.Account, req admin.UpdateUser, hash *string) error {
	set(&a.Hash, hash)
	set(&a.QuotaBytes, req.QuotaBytes)
	set(&a.QuotaMessages, req.QuotaMessages)
	set(&a.Disabled, req.Disabled)
	set(&a.Forward, req.Forward)
	set(&a.ForwardOnly, req.ForwardOnly)
	set(&a.Group, req.Group)
	set(&a.FullText, req.FullText)
	if req.Reply != nil {
		a.Reply = req.Reply
		if a.Reply.Kind == "" {
			a.Reply = nil
		}
	}
	if req.Services != nil {
		a.Services = normalServices(*req.Services)
		if err := checkServices(*req.Services); err != nil {
			return err
		}
	}
	return checkQuota(a.QuotaBytes, a.QuotaMessages)
}

func set[T any](dst, v *T) {
	if v != nil {
		*dst = *v
	}
}

func (s *Server) deleteUser(ctx context.Context, c *call) (any, error) {
	u, err := c.pathUser()
	if err != nil {
		return nil, err
	}
	rec, err := s.dir.DeleteUser(ctx, u)
	if err != nil {
		return nil, err
	}
	s.settle(ctx, u, rec)
	return userView(u, rec, director.Account{}), nil
}
