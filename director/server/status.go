package server

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"strings"
	"time"

	"waypost/director"
	"waypost/director/admin"
)

// domainsWait bounds the one thing of the status that needs the store.
const domainsWait = 2 * time.Second

func (s *Server) getStatus(ctx context.Context, _ *call) (any, error) { return s.status(ctx), nil }

// status tells what is known; it needs neither store nor nodes to answer.
func (s *Server) status(ctx context.Context) admin.Status {
	t, _ := s.census.count()
	st := admin.Status{
		Cluster: s.id.Cluster(), Director: s.cfg.ID, Nodes: []admin.Node{}, Backends: s.backendViews(),
		Users: maps.Clone(t.states), MovesInFlight: s.moves.count(),
		Directory: admin.DirectoryStatus{Stale: s.cache.Stale(), LagMS: s.cache.Lag().Milliseconds(), Era: s.cache.Era()},
	}
	for _, m := range s.members.Members() {
		n := admin.Node{Role: string(m.Role), ID: m.ID, Node: m.Node, Alive: m.Alive, Since: m.Since.UTC()}
		if m.Load != nil {
			n.Load = &admin.Load{Users: m.Load.Users, Sessions: m.Load.Sessions, UsedBytes: m.Load.UsedBytes, CapacityBytes: m.Load.CapacityBytes}
		}
		st.Nodes = append(st.Nodes, n)
	}
	if n, err := s.countDomains(ctx); err == nil {
		st.Domains = &n
	} else {
		s.log.Debug("domains not counted", "error", err)
	}
	return st
}

func (s *Server) countDomains(ctx context.Context) (int, error) {
	if s.cache.Stale() {
		return 0, director.ErrUnavailable // known already: nobody shall wait for it
	}
	ctx, cancel := context.WithTimeout(ctx, domainsWait)
	defer cancel()
	n := 0
	_, err := s.dir.Store().List(ctx, director.PrefixDomain, func(director.Entry) error { n++; return nil })
	return n, err
}

// lookup answers foreign software from memory; who is not in memory is looked
// up in the store.
func (s *Server) lookup(ctx context.Context, c *call) (any, error) {
	u, err := c.queryUser()
	if err != nil {
		return nil, err
	}
	if u == "" {
		return nil, fmt.Errorf("say ?user=: %w", director.ErrInvalid)
	}
	rec, known, stale := s.cache.Location(u)
	if !known {
		if rec, err = s.cache.Fresh(ctx, u); err != nil {
			return nil, err
		}
		stale = false
	}
	if rec.State == director.Deleted {
		return nil, fmt.Errorf("user %s: %w", u, director.ErrNotFound)
	}
	b, known := s.cache.Backend(rec.Home)
	if !known {
		return nil, fmt.Errorf("user %s: the home %s is not known: %w", u, rec.Home, director.ErrUnavailable)
	}
	return admin.Lookup{User: u, Home: rec.Home, Epoch: rec.Epoch, State: rec.State, Kind: b.Kind, Node: b.Node, Dovecot: b.Dovecot, Stale: stale}, nil
}

//go:embed page.html
var pageText string

// page shows the status to a browser. The template escapes all it is given.
func (s *Server) page(ctx context.Context, c *call) (any, error) {
	t, err := template.New("page").Funcs(template.FuncMap{"size": size, "is": func(b *bool) bool { return *b }}).Parse(pageText)
	if err != nil {
		return nil, fmt.Errorf("status page: %w", err)
	}
	var text strings.Builder
	if err := t.Execute(&text, s.status(ctx)); err != nil {
		return nil, fmt.Errorf("status page: %w", err)
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	_, err = c.w.Write([]byte(text.String()))
	if err != nil {
		return nil, errors.Join(director.ErrUnavailable, err)
	}
	return nil, nil
}

// size writes bytes for people; null is a dash.
func size(n *int64) string {
	if n == nil {
		return "–"
	}
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	v, i := float64(*n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", *n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
