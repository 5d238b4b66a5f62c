package rebalance

import (
	"context"

	"waypost/director"
)

// standing is how a move stands: journal and record as read, or as this mover has made
// them since. What it has not written is the phases within the busy time: whoever comes
// after it freezes and seals once more, which changes nothing.
type standing struct {
	mv      director.Move
	rec     director.Record
	reached map[director.BackendID]reached
}

type reached struct {
	Backend
	node string
}

func (s *Server) read(ctx context.Context, u director.User) (director.Move, director.Record, error) {
	mv, err := s.dir.Move(ctx, u)
	if err != nil {
		return director.Move{}, director.Record{}, err
	}
	rec, err := s.dir.Location(ctx, u)
	return mv.Value, rec.Value, err
}

// reach dials a backend once.
func (s *Server) reach(ctx context.Context, st *standing, id director.BackendID) (reached, error) {
	r, ok := st.reached[id]
	if ok {
		return r, nil
	}
	var err error
	if r.Backend, r.node, err = s.dial(ctx, id); err == nil {
		st.reached[id] = r
	}
	return r, err
}

// advance writes the journal as it stands, and the record's transition.
func (s *Server) advance(ctx context.Context, st *standing, to *director.Record) error {
	if err := s.dir.Advance(ctx, st.mv, st.rec, to); err != nil {
		return err
	}
	if to != nil {
		st.rec = *to
	}
	return nil
}
