package compose_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"waypost/deploy/cli"
	"waypost/internal/cluster"
)

// service is what is checked of a service in compose.yaml.
type service struct {
	Image    string            `json:"image"`
	User     string            `json:"user"`
	Command  []string          `json:"command"`
	Volumes  []string          `json:"volumes"`
	CapDrop  []string          `json:"cap_drop"`
	ReadOnly bool              `json:"read_only"`
	Env      map[string]string `json:"environment"`
}

func services(t *testing.T) map[string]service {
	t.Helper()
	text, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]service `json:"services"`
		Volumes  map[string]any     `json:"volumes"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for name, s := range file.Services {
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if _, declared := file.Volumes[source]; !strings.HasPrefix(source, "./") && !declared {
				t.Errorf("%s uses the volume %s, which is not declared", name, source)
			}
		}
	}
	return file.Services
}

func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = cli.Main(args, strings.NewReader(""), &out, &errOut)
	return out.String(), errOut.String(), code
}

// The init service is run for real, and each node's service must find, in the
// folder it is given, the file its command line names.
func TestComposeMatchesWhatInitMakes(t *testing.T) {
	all := services(t)
	dir := filepath.Join(t.TempDir(), "cluster")
	args := slices.Clone(all["init"].Command)
	for i := range args {
		args[i] = strings.Replace(args[i], "--dir=/cluster", "--dir="+dir, 1)
	}
	if _, stderr, code := run(t, args...); code != 0 {
		t.Fatalf("the command of init fails: %s", stderr)
	}
	counts := map[string]int{}
	for name, s := range all {
		if s.Image != "waypost" || name == "init" || name == "cli" {
			continue
		}
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) {
			t.Errorf("%s is not hardened", name)
		}
		role := s.Command[0]
		counts[role]++
		folder := mountedAt(s, "/etc/waypost")
		config := filepath.Join(dir, strings.TrimPrefix(folder, "./cluster/"), filepath.Base(s.Command[1]))
		if s.Command[1] != "--config=/etc/waypost/"+filepath.Base(config) {
			t.Errorf("%s: command %v", name, s.Command)
		}
		if out, stderr, code := run(t, role, "--config="+config, "--check-config"); code != 0 || out != "ok\n" {
			t.Errorf("%s: %s%s", name, out, stderr)
		}
		text, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text, []byte("advertise = \""+name+":7400\"")) {
			t.Errorf("%s: its configuration gives it another name in the network", name)
		}
	}
	want := map[string]int{"director": 1, "backend": 3, "mx": 2, "proxy": 2, "rebalance": 1}
	for role, n := range want {
		if counts[role] != n {
			t.Errorf("%d services of role %s, want %d", counts[role], role, n)
		}
	}
}

func mountedAt(s service, target string) string {
	for _, v := range s.Volumes {
		if f := strings.Split(v, ":"); len(f) > 1 && f[1] == target {
			return f[0]
		}
	}
	return ""
}

func TestComposeEtcdAndCLI(t *testing.T) {
	all := services(t)
	if got := mountedAt(all["etcd"], "/etc/etcd"); got != "./cluster/nodes/"+string(cluster.RoleEtcd)+"-etcd1" {
		t.Errorf("etcd has %s", got)
	}
	if all["etcd"].User != "65532:65532" {
		t.Errorf("etcd runs as %q, which cannot write the folder", all["etcd"].User)
	}
	if s := all["cli"]; s.Env["WAYPOST_DATA"] != "/admin" || mountedAt(s, "/admin") != "./cluster/admin" {
		t.Errorf("cli would not find the cluster: %+v", s)
	}
}

func TestImageHoldsOneBinaryAndNoRoot(t *testing.T) {
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, final, ok := strings.Cut(string(text), "\nFROM scratch\n")
	for _, want := range []string{"COPY --from=build /out/waypost /waypost\n", "USER 65532:65532\n", `ENTRYPOINT ["/waypost"]`} {
		if !ok || !strings.Contains(final, want) {
			t.Errorf("the final stage lacks %q", want)
		}
	}
	if strings.Contains(final, "RUN ") {
		t.Error("the final stage runs something; there is nothing in it to run")
	}
}
