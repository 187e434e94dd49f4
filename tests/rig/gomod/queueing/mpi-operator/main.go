// Kubeflow's mpi-operator as one process beside a cluster. Its own command listens on port 8080 of every interface, and waits
// for a lease first; this one only runs the controller, and answers whether it does on an address that it is given.
package main

import (
	"context"
	"flag"
	"log"
	"net/http"

	clientset "github.com/kubeflow/mpi-operator/pkg/client/clientset/versioned"
	kubeflowscheme "github.com/kubeflow/mpi-operator/pkg/client/clientset/versioned/scheme"
	kubeflowinformers "github.com/kubeflow/mpi-operator/pkg/client/informers/externalversions"
	"github.com/kubeflow/mpi-operator/pkg/controller"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the cluster's administrator")
	health := flag.String("health", "127.0.0.1:0", "answers /readyz here")
	qps := flag.Float64("qps", 500, "requests a second")
	flag.Parse()

	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	config.QPS, config.Burst = float32(*qps), int(*qps)
	if err := kubeflowscheme.AddToScheme(scheme.Scheme); err != nil {
		log.Fatal(err)
	}
	kube := kubernetes.NewForConfigOrDie(config)
	kubeflow := clientset.NewForConfigOrDie(config)
	core := informers.NewSharedInformerFactory(kube, 0)
	jobs := kubeflowinformers.NewSharedInformerFactory(kubeflow, 0)
	run, err := controller.NewMPIJobController(
		kube, kubeflow, nil, nil,
		core.Core().V1().ConfigMaps(), core.Core().V1().Secrets(), core.Core().V1().Services(),
		core.Batch().V1().Jobs(), core.Core().V1().Pods(), core.Scheduling().V1().PriorityClasses(),
		jobs.Kubeflow().V2beta1().MPIJobs(), "", "",
	)
	if err != nil {
		log.Fatal(err)
	}

	stop := context.Background().Done()
	core.Start(stop)
	jobs.Start(stop)
	go func() {
		core.WaitForCacheSync(stop)
		jobs.WaitForCacheSync(stop)
		http.HandleFunc("/readyz", func(http.ResponseWriter, *http.Request) {})
		log.Fatal(http.ListenAndServe(*health, nil))
	}()
	log.Fatal(run.Run(4, stop))
}
