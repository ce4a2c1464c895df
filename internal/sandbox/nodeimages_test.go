package sandbox_test

import (
	"fmt"
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/image"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// aPod runs a script, or the image's program, as any pod of production does: as the
// image's user, with no privilege, and without a disk to write to but /tmp.
const aPod = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  restartPolicy: Never
  enableServiceLinks: false
  containers:
    - name: server
      image: flashsale.local/%[1]s:1
      imagePullPolicy: Never
      %[2]s
      securityContext:
        runAsNonRoot: true
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
        seccompProfile: {type: RuntimeDefault}
      volumeMounts: [{name: tmp, mountPath: /tmp}]
  volumes: [{name: tmp, emptyDir: {}}]
---
`

// mysqlOptions are those of both of its starts: there is no X Protocol in a pod, and no
// folder to load files from.
const mysqlOptions = "options='--secure-file-priv=NULL --mysqlx=OFF --datadir=/tmp/data'; "

// A server is ready in its pod when a query has an answer.
var serverPods = []struct {
	name, script string
	query        []string
	want         string
}{
	{
		"zookeeper", `printf "dataDir=/tmp/data\nclientPort=2181\nadmin.enableServer=false\n" >/tmp/zoo.cfg && exec zkServer.sh start-foreground /tmp/zoo.cfg`,
		[]string{"zkCli.sh", "-server", "127.0.0.1:2181", "ls", "/"}, "[zookeeper]",
	},
	{
		"mariadb", "mariadb-install-db --no-defaults --datadir=/tmp/data --auth-root-authentication-method=normal && exec mariadbd --no-defaults --datadir=/tmp/data --socket=/tmp/socket",
		[]string{"mariadb", "--user=root", "--protocol=tcp", "--batch", "--execute=SELECT VERSION()"}, "MariaDB",
	},
	{
		"mysql", mysqlOptions + "mysqld $options --initialize-insecure && exec mysqld $options --socket=/tmp/socket",
		[]string{"mysql", "--user=root", "--protocol=tcp", "--batch", "--execute=SELECT VERSION()"}, "9.",
	},
}

func TestImagesRunInPods(t *testing.T) {
	tier.OnlyTestAll(t, "a Kubernetes node, ZooKeeper, MariaDB and MySQL")
	sandboxtest.NeedsNode(t)
	mysql, err := sandbox.MySQLImage("flashsale.local/mysql:1")
	if err != nil {
		t.Fatal(err)
	}
	node := startNode(t)
	for _, im := range []*image.Image{
		mysql, image.MariaDB("flashsale.local/mariadb:1"), image.ZooKeeper("flashsale.local/zookeeper:1"),
		// Also where Build's has the race detector, and so needs a C library.
		image.API("flashsale.local/api:1", sandboxtest.BuildChanged(t, "api", nil)),
	} {
		if err := node.ImportImage(t.Context(), im); err != nil {
			t.Fatal(err)
		}
	}
	pods := fmt.Sprintf(aPod, "api", `args: [strategies]`)
	for _, server := range serverPods {
		pods += fmt.Sprintf(aPod, server.name, fmt.Sprintf("command: [bash, -c, %q]", server.script))
	}
	if _, err := node.KubectlInput(t.Context(), pods, "apply", "--filename=-"); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Kubectl(t.Context(), "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/api", "--timeout=2m"); err != nil {
		t.Error(err)
	}
	if said, err := node.Kubectl(t.Context(), "logs", "pod/api"); err != nil || !strings.Contains(said, "kubernetes-stocklock") {
		t.Errorf("api strategies in a pod: %s, %v", said, err)
	}
	for _, server := range serverPods {
		var said string
		var err error
		sandboxtest.Eventually(t, server.name+" in a pod", func() bool {
			said, err = node.Exec(t.Context(), "default", server.name, server.query...)
			if err == nil && strings.Contains(said, server.want) {
				return true
			}
			phase, _ := node.Kubectl(t.Context(), "get", "pod", server.name, "--output=jsonpath={.status.phase}")
			if phase == "Failed" {
				logs, _ := node.Kubectl(t.Context(), "logs", server.name, "--tail=30")
				t.Fatalf("%s has ended: %s", server.name, logs)
			}
			return false
		})
	}
}
