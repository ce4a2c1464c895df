// Package compose_test checks what docker compose would run, on a machine that has
// no Docker: the file by compose's own loader, the image by BuildKit's parser and
// the go command, and the stack by running its parts as they stand in the file.
package compose_test

import (
	"bufio"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"flashsale/internal/sandbox/sandboxtest"
)

// root is the repository's, and folder what compose mounts from it.
const root, folder = "../..", "deploy/compose"

// secrets are values for the names in .env.example, told apart by their names.
func secrets(t *testing.T) []string {
	t.Helper()
	file, err := os.Open(filepath.Join(root, ".env.example"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var env []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if name, value, found := strings.Cut(lines.Text(), "="); found && !strings.HasPrefix(name, "#") {
			if value != "" {
				t.Errorf(".env.example has a value for %s: somebody would keep it", name)
			}
			env = append(env, name+"="+strings.ToLower(name)+"-of-thirty-two-bytes-at-least")
		}
	}
	return env
}

// load reads docker-compose.yml as compose does, with every profile.
func load(t *testing.T, env ...string) (*types.Project, error) {
	t.Helper()
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	options, err := cli.NewProjectOptions([]string{filepath.Join(top, "docker-compose.yml")},
		cli.WithWorkingDirectory(top), cli.WithEnv(env), cli.WithProfiles([]string{"*"}), cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	return options.LoadProject(t.Context())
}

func mustLoad(t *testing.T) *types.Project {
	t.Helper()
	project, err := load(t, secrets(t)...)
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestEverySecretIsAskedFor(t *testing.T) {
	t.Parallel()
	all := secrets(t)
	if len(all) == 0 {
		t.Fatal(".env.example names nothing")
	}
	for i, secret := range all {
		name, _, _ := strings.Cut(secret, "=")
		_, err := load(t, slices.Delete(slices.Clone(all), i, i+1)...)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), ".env.example") {
			t.Errorf("without %s: %v, want an error that names it and .env.example", name, err)
		}
		// Also where it stands a second time.
		text := read(t, "docker-compose.yml")
		if strings.Count(text, "${"+name) != strings.Count(text, "${"+name+":?see .env.example}") {
			t.Errorf("%s has a default somewhere", name)
		}
	}
}

// TestReplicasKnowTheirEnvironment: a name that no flag has would be passed over.
func TestReplicasKnowTheirEnvironment(t *testing.T) {
	t.Parallel()
	help, err := exec.CommandContext(t.Context(), sandboxtest.Build(t, "api"), "serve", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Collect(maps.Keys(mustLoad(t).Services["api"].Environment))
	for _, line := range regexp.MustCompile(`(?m)^(FLASHSALE_\w+)=`).FindAllStringSubmatch(read(t, "deploy/systemd/flashsale.env"), -1) {
		names = append(names, line[1])
	}
	for _, name := range names {
		if strings.HasPrefix(name, "FLASHSALE_") && !regexp.MustCompile(`\$`+name+`\b`).Match(help) {
			t.Errorf("%s is no flag's: see api serve --help", name)
		}
	}
}

// TestSecretsStayOutOfGitAndImages keeps a filled-in .env out of Git and of images.
func TestSecretsStayOutOfGitAndImages(t *testing.T) {
	t.Parallel()
	for _, name := range []string{".gitignore", ".dockerignore"} {
		text := read(t, name)
		if !regexp.MustCompile(`(?m)^/?\.env$`).MatchString(text) {
			t.Errorf("%s lets .env through", name)
		}
	}
}

func TestWhatIsWaitedForCanTellThatItIsThere(t *testing.T) {
	t.Parallel()
	project := mustLoad(t)
	for name, service := range project.Services {
		for on, dependency := range service.DependsOn {
			if dependency.Condition != types.ServiceConditionHealthy {
				t.Errorf("%s waits for %s to be %s: it would be asked too soon", name, on, dependency.Condition)
			}
			other, found := project.Services[on]
			if !found || other.HealthCheck == nil || other.HealthCheck.Disable || len(other.HealthCheck.Test) == 0 {
				t.Errorf("%s waits for %s, which has no health check", name, on)
			}
			if !service.HasProfile(other.Profiles) && len(other.Profiles) > 0 {
				t.Errorf("%s waits for %s, which may not run: its profiles are %v", name, on, other.Profiles)
			}
		}
	}
	want := map[string][]string{
		"api": {"etcd-1", "etcd-2", "etcd-3", "mysql"}, "proxy": {"api"}, "loadtest": {"proxy"},
		"prometheus": {"api"}, "grafana": {"prometheus"},
	}
	for name, on := range want {
		var got []string
		for other := range project.Services[name].DependsOn {
			got = append(got, other)
		}
		slices.Sort(got)
		if !slices.Equal(got, on) {
			t.Errorf("%s waits for %v, want %v", name, got, on)
		}
	}
}

func TestContainersCanDoNoMoreThanTheyNeed(t *testing.T) {
	t.Parallel()
	for name, service := range mustLoad(t).Services {
		if service.Privileged || len(service.CapAdd) > 0 || len(service.Devices) > 0 || service.Pid != "" || service.NetworkMode != "" || service.Ipc != "" {
			t.Errorf("%s is given more than a container has", name)
		}
		if !slices.Equal(service.CapDrop, []string{"ALL"}) || !slices.Equal(service.SecurityOpt, []string{"no-new-privileges:true"}) || !service.ReadOnly {
			t.Errorf("%s keeps capabilities, can gain privileges or can write its image: %v %v %v",
				name, service.CapDrop, service.SecurityOpt, service.ReadOnly)
		}
		if service.Deploy == nil || service.Deploy.Resources.Limits == nil || service.Deploy.Resources.Limits.MemoryBytes == 0 || service.Deploy.Resources.Limits.Pids == 0 {
			t.Errorf("%s has no limit of memory or of processes", name)
		}
		if want := "unless-stopped"; name != "loadtest" && service.Restart != want {
			t.Errorf("%s restarts %q, want %q", name, service.Restart, want)
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes port %s on %q, want 127.0.0.1", name, port.Published, port.HostIP)
			}
			if name != "proxy" && len(service.Profiles) == 0 {
				t.Errorf("%s publishes a port: only the proxy does", name)
			}
		}
		for network := range service.Networks {
			if (name == "mysql" || strings.HasPrefix(name, "etcd")) && network != "data" {
				t.Errorf("%s is on the network %s", name, network)
			}
		}
	}
	if project := mustLoad(t); !project.Networks["data"].Internal {
		t.Error("the network data leads outside")
	}
}

// exact is a tag that names one release: three numbers, and what they are built on.
var exact = regexp.MustCompile(`^[a-z0-9./-]+:v?\d+\.\d+\.\d+(-[a-z0-9.]+)?(@sha256:[0-9a-f]{64})?$`)

func TestImagesArePinnedToARelease(t *testing.T) {
	t.Parallel()
	for name, service := range mustLoad(t).Services {
		if service.Build == nil && !exact.MatchString(service.Image) {
			t.Errorf("%s runs %s: not one exact release", name, service.Image)
		}
	}
	// The server and the client are one version, as the tests' are.
	version := regexp.MustCompile(`(?m)^\s+go\.etcd\.io/etcd/client/v3 (v\S+)`).FindStringSubmatch(read(t, "go.mod"))
	if image := mustLoad(t).Services["etcd-1"].Image; version == nil || !strings.HasSuffix(image, ":"+version[1]) {
		t.Errorf("etcd's image is %s, the client is %v", image, version)
	}
}

func TestMountedFilesAreInTheRepository(t *testing.T) {
	t.Parallel()
	project := mustLoad(t)
	for name, service := range project.Services {
		for _, volume := range service.Volumes {
			switch volume.Type {
			case types.VolumeTypeBind:
				if _, err := os.Stat(volume.Source); err != nil {
					t.Errorf("%s mounts what is not there: %v", name, err)
				}
				if !volume.ReadOnly {
					t.Errorf("%s may write %s", name, volume.Source)
				}
			case types.VolumeTypeVolume:
				if _, named := project.Volumes[volume.Source]; !named || volume.Source == "" {
					t.Errorf("%s keeps %s in a volume that has no name", name, volume.Target)
				}
			default:
				t.Errorf("%s mounts a %s", name, volume.Type)
			}
		}
	}
}

// TestMySQLKeepsWhatItPromised names the settings that invariants rest on.
func TestMySQLKeepsWhatItPromised(t *testing.T) {
	t.Parallel()
	mysql := mustLoad(t).Services["mysql"]
	for _, want := range []string{"--innodb-flush-log-at-trx-commit=1", "--sync-binlog=1", "--transaction-isolation=READ-COMMITTED"} {
		if !slices.Contains(mysql.Command, want) {
			t.Errorf("mysql is not started with %s", want)
		}
	}
	if user := mysql.Environment["MYSQL_USER"]; user == nil || *user == "root" {
		t.Error("the service's account is root")
	}
	rights := read(t, folder+"/mysql-rights.sql")
	for _, statement := range regexp.MustCompile(`(?m)^GRANT .*$`).FindAllString(rights, -1) {
		if strings.Contains(statement, "ALL") || strings.Contains(statement, "SUPER") || strings.Contains(statement, "GRANT OPTION") {
			t.Errorf("%s is more than a replica needs", statement)
		}
	}
}

// TestReplicasAndTheirProxyKnowEachOther also compares the time that a replica takes
// to end with what Docker gives.
func TestReplicasAndTheirProxyKnowEachOther(t *testing.T) {
	t.Parallel()
	api := mustLoad(t).Services["api"]
	var takes time.Duration
	for _, name := range []string{"FLASHSALE_DRAIN_DELAY", "FLASHSALE_DRAIN_TIMEOUT"} {
		d, err := time.ParseDuration(*api.Environment[name])
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		takes += d
	}
	// Giving everything back: a test of cmd/api holds a replica to it.
	const promise = "15\ns more, before it is killed"
	if !strings.Contains(read(t, "docs/operations.md"), promise) {
		t.Errorf("docs/operations.md no longer says %q", promise)
	}
	takes += 15 * time.Second
	if api.StopGracePeriod == nil || time.Duration(*api.StopGracePeriod) < takes {
		t.Errorf("stop_grace_period is %v, a replica may take %s", api.StopGracePeriod, takes)
	}
	proxy := mustLoad(t).Services["proxy"].Networks["front"].Ipv4Address
	if trusted := api.Environment["FLASHSALE_TRUSTED_PROXIES"]; trusted == nil || *trusted != proxy {
		t.Errorf("the proxy is at %s, replicas trust %v", proxy, trusted)
	}
	if api.GetScale() != 3 {
		t.Errorf("%d replicas, want 3", api.GetScale())
	}
}

// read returns a file that is named from the top of the tree.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
