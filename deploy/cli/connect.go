package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"waypost/deploy/clifile"
	"waypost/director/admin"
	"waypost/internal/cluster"
)

// defaultData is where `waypost up` keeps its cluster.
const defaultData = "./waypost-data"

const envData = "WAYPOST_DATA"

// connection says where the cluster is.
type connection struct {
	app  *app
	data string
	file clifile.File // what flags say
}

// connecting gives a command the flags that find the cluster.
func (a *app) connecting(c *cobra.Command) *connection {
	conn := &connection{app: a}
	f := c.Flags()
	f.StringVar(&conn.data, "data", "", "`folder` with the cluster's cli.json (default $WAYPOST_DATA, or "+defaultData+")")
	f.StringVar(&conn.file.Admin, "admin", "", "`host:port` of the admin API, instead of that in cli.json")
	f.StringVar(&conn.file.CA, "ca", "", "`file` with the certificate of the cluster's authority")
	f.StringVar(&conn.file.Cert, "cert", "", "`file` with an admin certificate")
	f.StringVar(&conn.file.Key, "key", "", "`file` with its key")
	return conn
}

func (a *app) dataDir(flag string) string {
	if flag != "" {
		return flag
	}
	if env := a.getenv(envData); env != "" {
		return env
	}
	return defaultData
}

// find gives what flags say, and for the rest what cli.json says.
func (c *connection) find() (clifile.File, error) {
	f := c.file
	if f.Admin != "" && f.CA != "" && f.Cert != "" && f.Key != "" {
		if err := f.Validate(); err != nil {
			return f, &usageError{err}
		}
		return f, nil
	}
	dir := c.app.dataDir(c.data)
	have, err := clifile.Read(dir)
	if errors.Is(err, clifile.ErrNone) {
		return f, fmt.Errorf("no cluster found: there is no %s in %s; start one with `waypost up`, or say where it is with --data DIR, %s, or --admin HOST:PORT --ca FILE --cert FILE --key FILE",
			clifile.Name, dir, envData)
	}
	if err != nil {
		return f, fmt.Errorf("find the cluster: %w", err)
	}
	for _, p := range []struct{ flag, file *string }{{&f.Admin, &have.Admin}, {&f.CA, &have.CA}, {&f.Cert, &have.Cert}, {&f.Key, &have.Key}} {
		if *p.flag == "" {
			*p.flag = *p.file
		}
	}
	if err := f.Validate(); err != nil {
		return f, &usageError{err}
	}
	return f, nil
}

// with connects and calls do.
func (c *connection) with(do func(*admin.Client) error) error {
	f, err := c.find()
	if err != nil {
		return err
	}
	id, err := cluster.LoadIdentity(f.CA, f.Cert, f.Key)
	if err != nil {
		return err
	}
	if self := id.Self(); self.Role != cluster.RoleAdmin && self.Role != cluster.RoleDirector {
		return fmt.Errorf("%s is the certificate of %s: the admin API wants an admin's", f.Cert, self)
	}
	client := admin.NewClient(f.Admin, id)
	defer client.Close()
	return explain(do(client), f.Admin)
}

// explain adds what to do to errors on the way to the director. What the
// director itself says is plain enough.
func explain(err error, addr string) error {
	var said *admin.Error
	var usage *usageError
	var ours *localError
	switch {
	case err == nil, errors.As(err, &said), errors.As(err, &usage), errors.As(err, &ours), errors.Is(err, errTold):
		return err
	}
	return fmt.Errorf("%w; does the cluster run, and is its admin API at %s? (--data or --admin name another)", err, addr)
}

// localError is an error that has nothing to do with the director.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// nodeErrors tells which nodes' parts are missing from an answer, and fails the
// command if any are.
func (a *app) nodeErrors(errs []admin.NodeError) error {
	for _, e := range errs {
		a.warn("%s did not answer: %s", e.Node, oneLine(e.Text))
	}
	if len(errs) > 0 {
		return errTold
	}
	return nil
}
