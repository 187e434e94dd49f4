// Kubeflow's training-operator as one process beside a cluster. Its own command wants certificates in a fixed folder of /tmp and
// serves its webhooks on every interface; this one is told where both are.
package main

import (
	"flag"
	"net/http"
	"os"

	kubeflow "github.com/kubeflow/training-operator/pkg/apis/kubeflow.org/v1"
	"github.com/kubeflow/training-operator/pkg/config"
	controllers "github.com/kubeflow/training-operator/pkg/controller.v1"
	"github.com/kubeflow/training-operator/pkg/controller.v1/common"
	"github.com/kubeflow/training-operator/pkg/webhooks"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metrics "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	schedulerplugins "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"
	volcano "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

func main() {
	var enabled controllers.EnabledSchemes
	health := flag.String("health", "127.0.0.1:0", "answers /readyz here")
	port := flag.Int("webhook-port", 0, "serves the webhooks on this port of 127.0.0.1")
	certificates := flag.String("certificates", "", "folder with tls.crt and tls.key")
	flag.StringVar(&config.Config.MPIKubectlDeliveryImage, "mpi-kubectl-delivery-image", "none", "of an MPIJob's launcher")
	flag.Var(&enabled, "enable-scheme", "a kind of job, in lower case; may be given again")
	flag.Parse()
	ctrl.SetLogger(zap.New(zap.UseDevMode(true)))
	if err := run(enabled, *health, *port, *certificates); err != nil {
		ctrl.Log.Error(err, "training-operator")
		os.Exit(1)
	}
}

func run(enabled controllers.EnabledSchemes, health string, port int, certificates string) error {
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		scheme.AddToScheme, kubeflow.AddToScheme, volcano.AddToScheme, schedulerplugins.AddToScheme,
	} {
		if err := add(known); err != nil {
			return err
		}
	}
	client := ctrl.GetConfigOrDie()
	client.QPS, client.Burst = 500, 1000
	manager, err := ctrl.NewManager(client, ctrl.Options{
		Scheme:                 known,
		Metrics:                metrics.Options{BindAddress: "0"},
		HealthProbeBindAddress: health,
		WebhookServer:          webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, CertDir: certificates}),
	})
	if err != nil {
		return err
	}
	for _, kind := range enabled {
		if err := controllers.SupportedSchemeReconciler[kind](manager, common.GenNonGangSchedulerSetupFunc(), 4); err != nil {
			return err
		}
		if err := webhooks.SupportedSchemeWebhook[kind](manager); err != nil {
			return err
		}
	}
	ready := func(request *http.Request) error { return manager.GetWebhookServer().StartedChecker()(request) }
	if err := manager.AddReadyzCheck("readyz", ready); err != nil {
		return err
	}
	return manager.Start(ctrl.SetupSignalHandler())
}
