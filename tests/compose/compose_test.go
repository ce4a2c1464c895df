// Package compose_test checks what docker compose would run, on a machine that has
// no Docker: the file by compose's own loader, the image by BuildKit's parser and
// the go command, and the stack by running its parts as they stand in the file.
package compose_test

import (
	"bufio"
	"maps"
	"net/netip"
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

// TestCommandsKnowTheirEnvironment: a name that no flag has would be passed over.
func TestCommandsKnowTheirEnvironment(t *testing.T) {
	t.Parallel()
	names := map[string][]string{} // by command
	for _, name := range []string{"api", "migrate", "etcd-auth"} {
		service := mustLoad(t).Services[name]
		names[service.Command[0]] = slices.Collect(maps.Keys(service.Environment))
	}
	for _, line := range regexp.MustCompile(`(?m)^(FLASHSALE_\w+)=`).FindAllStringSubmatch(read(t, "deploy/systemd/flashsale.env"), -1) {
		names["serve"] = append(names["serve"], line[1])
	}
	for command, names := range names {
		help, err := exec.CommandContext(t.Context(), sandboxtest.Build(t, "api"), command, "--help").Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasPrefix(name, "FLASHSALE_") && !regexp.MustCompile(`\$`+name+`\b`).Match(help) {
				t.Errorf("%s is no flag's: see api %s --help", name, command)
			}
		}
	}
}

// TestSettingsForPublicUseReachTheReplicas: without values, or with empty ones, the stack is
// the demo that it was. A replica accepts all of them.
func TestSettingsForPublicUseReachTheReplicas(t *testing.T) {
	t.Parallel()
	asBefore := map[string]string{
		"FLASHSALE_PAYMENTS": "customer", "FLASHSALE_MAX_UNPAID": "0", "FLASHSALE_RATE_LIMIT_CUSTOMER": "0", "FLASHSALE_RATE_LIMIT_ADDRESS": "0",
		"FLASHSALE_RATE_LIMIT_ADMIN_GUESSES": "10/1m", "FLASHSALE_RATE_LIMIT_CANCELLATIONS": "20/1m", "FLASHSALE_RATE_LIMIT_LATE_PAYMENTS": "20/1m",
	}
	empty, public := map[string]string{}, map[string]string{}
	for name := range asBefore {
		empty[name] = ""
		public[name] = "7/1m"
	}
	public["FLASHSALE_PAYMENTS"], public["FLASHSALE_MAX_UNPAID"] = "service", "5"
	for _, test := range []struct {
		name      string
		set, want map[string]string
		accepted  bool
	}{
		{"no values", nil, asBefore, true},
		{"empty values", empty, asBefore, true},
		{"values for public use", public, public, true},
		{"a limit of no form", map[string]string{"FLASHSALE_RATE_LIMIT_CUSTOMER": "many"}, map[string]string{"FLASHSALE_RATE_LIMIT_CUSTOMER": "many"}, false},
	} {
		env := secrets(t)
		for name, value := range test.set {
			env = append(env, name+"="+value)
		}
		project, err := load(t, env...)
		if err != nil {
			t.Fatal(err)
		}
		service := project.Services["api"]
		for name, want := range test.want {
			if got := service.Environment[name]; got == nil || *got != want {
				t.Errorf("%s: %s is %v, want %q", test.name, name, got, want)
			}
		}
		// A replica with these values ends because it reaches no server.
		replica := exec.CommandContext(t.Context(), sandboxtest.Build(t, "api"), service.Command...)
		for name, value := range service.Environment {
			if value != nil {
				replica.Env = append(replica.Env, name+"="+*value)
			}
		}
		replica.Env = append(replica.Env, "FLASHSALE_ADDR=127.0.0.1:0", "FLASHSALE_INTERNAL_ADDR=127.0.0.1:0", "FLASHSALE_START_TIMEOUT=1s",
			"FLASHSALE_MYSQL_DSN=flashsale:none@tcp(127.0.0.1:1)/flashsale", "FLASHSALE_ETCD_ENDPOINTS=http://127.0.0.1:1")
		out, err := replica.CombinedOutput()
		if refused := strings.Contains(string(out), "--rate-limit-customer"); err == nil || refused == test.accepted || test.accepted && !strings.Contains(string(out), "127.0.0.1:1") {
			t.Errorf("%s: a replica says %s, %v", test.name, out, err)
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
			other, found := project.Services[on]
			switch {
			case dependency.Condition == types.ServiceConditionCompletedSuccessfully && other.Restart == "no":
				continue // it runs to its end
			case dependency.Condition != types.ServiceConditionHealthy:
				t.Errorf("%s waits for %s to be %s: it would be asked too soon", name, on, dependency.Condition)
			}
			if !found || other.HealthCheck == nil || other.HealthCheck.Disable || len(other.HealthCheck.Test) == 0 {
				t.Errorf("%s waits for %s, which has no health check", name, on)
			}
			if !service.HasProfile(other.Profiles) && len(other.Profiles) > 0 {
				t.Errorf("%s waits for %s, which may not run: its profiles are %v", name, on, other.Profiles)
			}
		}
	}
	want := map[string][]string{
		"api": {"etcd-auth", "migrate"}, "etcd-auth": {"etcd-1", "etcd-2", "etcd-3"}, "migrate": {"mysql"}, "proxy": {"api"}, "loadtest": {"proxy"},
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
		want := "unless-stopped"
		if slices.Contains([]string{"migrate", "etcd-auth", "loadtest"}, name) {
			want = "no"
		}
		if service.Restart != want {
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
	}
}

// TestServicesMeetOnlyWhomTheyNeed lists who shares a network with MySQL and etcd: who
// can write there changes the settings of all replicas, or the stock. The replicas share
// one network with each of the others. With two of them, Docker's name server could give
// the proxy another address than the one that the replicas expect it to call.
func TestServicesMeetOnlyWhomTheyNeed(t *testing.T) {
	t.Parallel()
	project := mustLoad(t)
	if !project.Networks["data"].Internal || !project.Networks["scrape"].Internal {
		t.Error("a network of servers leads outside")
	}
	shared := func(a, b string) (n int) {
		for network := range project.Services[a].Networks {
			if _, both := project.Services[b].Networks[network]; both {
				n++
			}
		}
		return n
	}
	for _, server := range []string{"mysql", "etcd-1", "etcd-2", "etcd-3"} {
		var got []string
		for name := range project.Services {
			if shared(name, server) > 0 && name != "mysql" && !strings.HasPrefix(name, "etcd-") {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if want := []string{"api", "loadtest", "migrate"}; !slices.Equal(got, want) {
			t.Errorf("%s can be reached by %v, want %v", server, got, want)
		}
	}
	for _, caller := range []string{"proxy", "prometheus", "mysql", "etcd-1"} {
		if n := shared("api", caller); n != 1 {
			t.Errorf("the replicas and %s share %d networks, want 1", caller, n)
		}
	}
	if n := shared("prometheus", "proxy"); n != 1 {
		t.Errorf("prometheus and the proxy share %d networks, want 1", n)
	}
	// What Prometheus scrapes is where it is.
	targets := read(t, folder+"/prometheus.yml")
	internal := mustEnv(t, project.Services["api"], "FLASHSALE_INTERNAL_ADDR")
	if !strings.Contains(targets, "names: [api], type: A, port"+strings.Replace(internal, ":", ": ", 1)+",") {
		t.Errorf("Prometheus does not scrape the replicas at %s", internal)
	}
	for _, target := range regexp.MustCompile(`"([a-z0-9-]+):\d+"`).FindAllStringSubmatch(targets, -1) {
		if shared("prometheus", target[1]) == 0 {
			t.Errorf("Prometheus scrapes %s, which it cannot reach", target[1])
		}
	}
}

func mustEnv(t *testing.T, service types.ServiceConfig, name string) string {
	t.Helper()
	value := service.Environment[name]
	if value == nil {
		t.Fatalf("%s has no %s", service.Name, name)
	}
	return *value
}

// TestStaticAddressesAreNeverAssigned: Docker may give an address of the range to any
// container, and the proxy would not start.
func TestStaticAddressesAreNeverAssigned(t *testing.T) {
	t.Parallel()
	project := mustLoad(t)
	if collisions := collisions(project); len(collisions) > 0 {
		t.Error(collisions)
	}
	for _, pool := range project.Networks["front"].Ipam.Config {
		pool.IPRange = ""
	}
	if len(collisions(project)) != 1 {
		t.Error("a static address in the dynamic range was not found")
	}
}

// collisions are the static addresses that Docker could give to other containers.
func collisions(project *types.Project) (found []string) {
	for name, service := range project.Services {
		for network, at := range service.Networks {
			if at == nil || at.Ipv4Address == "" {
				continue
			}
			address, err := netip.ParseAddr(at.Ipv4Address)
			free := false
			for _, pool := range project.Networks[network].Ipam.Config {
				subnet, subnetErr := netip.ParsePrefix(pool.Subnet)
				dynamic, rangeErr := netip.ParsePrefix(pool.IPRange)
				free = free || err == nil && subnetErr == nil && rangeErr == nil && subnet.Contains(address) &&
					subnet.Contains(dynamic.Addr()) && !dynamic.Contains(address) && at.Ipv4Address != pool.Gateway
			}
			if !free {
				found = append(found, name+" at "+at.Ipv4Address)
			}
		}
	}
	return found
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
	if mysql.Environment["MYSQL_USER"] != nil {
		t.Error("the image would create an account with all rights")
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
	// Those that the proxy does not limit are the stack's own containers, but not whoever
	// calls its published port.
	front, config := mustLoad(t).Networks["front"].Ipam.Config[0], read(t, folder+"/haproxy.cfg")
	for _, want := range []string{"acl ours src " + front.Subnet + "\n", "acl gateway src " + front.Gateway + "\n"} {
		if !strings.Contains(config, want) {
			t.Errorf("haproxy.cfg has no %q", want)
		}
	}
	// Its checks need no connection that callers could take.
	internal := mustEnv(t, api, "FLASHSALE_INTERNAL_ADDR")
	if checks := "default-server check port " + strings.TrimPrefix(internal, ":") + " "; strings.Count(config, checks) != strings.Count(config, "default-server ") {
		t.Errorf("the proxy does not check the replicas at %s", internal)
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
