{{- define "nats-llm-sidecar.name" -}}
{{- default "nats-llm-sidecar" .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "nats-llm-sidecar.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- $name := include "nats-llm-sidecar.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "nats-llm-sidecar.selectorLabels" -}}
app.kubernetes.io/name: {{ include "nats-llm-sidecar.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "nats-llm-sidecar.labels" -}}
{{ include "nats-llm-sidecar.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "nats-llm-sidecar.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "nats-llm-sidecar.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "nats-llm-sidecar.configMapName" -}}
{{- default (include "nats-llm-sidecar.fullname" .) .Values.existingConfigMap }}
{{- end }}

{{- define "nats-llm-sidecar.configChecksum" -}}
checksum/config: {{ .Values.config | sha256sum }}
{{- if .Values.leafNode.enabled }}
checksum/leaf: {{ include "nats-llm-sidecar.leafConfig" . | sha256sum }}
{{- end }}
{{- end }}

{{- define "nats-llm-sidecar.leafName" -}}
{{- printf "%s-leaf" (include "nats-llm-sidecar.fullname" .) }}
{{- end }}

{{/* No JetStream of its own: its clients use the streams of the servers behind it, which a domain must name. */}}
{{- define "nats-llm-sidecar.leafConfig" -}}
listen: "127.0.0.1:4222"
http: "0.0.0.0:8222"
default_js_domain: { "$G": {{ .Values.leafNode.domain | quote }} }
leafnodes {
  remotes: [
    {
      urls: {{ required "leafNode.remotes: name the servers that the leaf node connects to" .Values.leafNode.remotes | toJson }}
      {{- if .Values.leafNode.credentials.existingSecret }}
      credentials: "/etc/nats-leaf-credentials/{{ .Values.leafNode.credentials.key }}"
      {{- end }}
    }
  ]
}
{{- end }}

{{/* The leaf node, a native sidecar before the others: who comes after it finds it on 127.0.0.1:4222. */}}
{{- define "nats-llm-sidecar.leafContainer" -}}
- name: llm-nats-leaf
  {{- with .Values.leafNode.image }}
  image: {{ if .digest }}{{ printf "%s@%s" .repository .digest | quote }}{{ else }}{{ printf "%s:%s" .repository .tag | quote }}{{ end }}
  {{- end }}
  args: ["--config", "/etc/nats-leaf/leaf.conf"]
  restartPolicy: Always
  ports:
    - name: leaf-monitor
      containerPort: 8222
  # Who comes after it must find JetStream: healthy is not yet connected.
  startupProbe:
    exec:
      command: ["sh", "-c", "wget -qO- http://127.0.0.1:8222/leafz | grep -q '\"leafnodes\": [1-9]'"]
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: 120
  livenessProbe:
    httpGet:
      path: /healthz
      port: leaf-monitor
    periodSeconds: 10
    failureThreshold: 3
  resources:
    {{- toYaml .Values.leafNode.resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false
    capabilities:
      drop: ["ALL"]
    seccompProfile:
      type: RuntimeDefault
  volumeMounts:
    - name: llm-leaf-config
      mountPath: /etc/nats-leaf
      readOnly: true
    {{- if .Values.leafNode.credentials.existingSecret }}
    - name: llm-leaf-credentials
      mountPath: /etc/nats-leaf-credentials
      readOnly: true
    {{- end }}
{{- end }}

{{- define "nats-llm-sidecar.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* Seconds that a pod with the sidecar needs to end: an application's own stop comes on top. */}}
{{- define "nats-llm-sidecar.terminationGracePeriodSeconds" -}}
{{- add .Values.drainSeconds .Values.drainMarginSeconds }}
{{- end }}

{{/* Whether the NetworkPolicy also says where the pods may go. */}}
{{- define "nats-llm-sidecar.restrictsEgress" -}}
{{- with .Values.networkPolicy }}{{ if or .egress .nats.to .httpsTo }}true{{ end }}{{ end }}
{{- end }}

{{- define "nats-llm-sidecar.env" -}}
- name: SIDECAR_CONFIG
  value: /etc/sidecar/sidecar.toml
# The kubelet asks by the pod's address.
- name: SIDECAR_ADMIN__HOST
  value: "0.0.0.0"
- name: SIDECAR_ADMIN__PORT
  value: {{ .Values.adminPort | quote }}
{{- with .Values.adminToken.existingSecret }}
- name: SIDECAR_ADMIN__TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $.Values.adminToken.key }}
{{- end }}
- name: SIDECAR_JOBS__DRAIN_S
  value: {{ .Values.drainSeconds | quote }}
# After preStop the sidecar serves the application until the kubelet's SIGTERM, however long that takes.
- name: SIDECAR_JOBS__LINGER_S
  value: "86400"
{{- if .Values.leafNode.enabled }}
- name: SIDECAR_NATS__URL
  value: nats://127.0.0.1:4222
{{- end }}
- name: AWS_REGION
  value: {{ .Values.aws.region | quote }}
{{- with .Values.credentials }}
{{- if .credsKey }}
- name: NATS_CREDS
  value: {{ printf "/etc/sidecar-credentials/%s" .credsKey }}
{{- end }}
{{- if .caKey }}
- name: NATS_CA
  value: {{ printf "/etc/sidecar-credentials/%s" .caKey }}
{{- end }}
{{- $secret := .existingSecret }}
{{- range $name, $key := dict "NATS_USER" .userKey "NATS_PASSWORD" .passwordKey "NATS_TOKEN" .tokenKey }}
{{- if $key }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $secret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "nats-llm-sidecar.hasCredentialFiles" -}}
{{- with .Values.credentials }}{{ if and .existingSecret (or .credsKey .caKey) }}true{{ end }}{{ end }}
{{- end }}

{{/* The container without what tells a native sidecar from a container of its own. */}}
{{- define "nats-llm-sidecar.containerBody" -}}
name: llm-sidecar
image: {{ include "nats-llm-sidecar.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: ["run"]
env:
  {{- include "nats-llm-sidecar.env" . | nindent 2 }}
{{- if or .Values.aws.existingSecret .Values.extraEnvFrom }}
envFrom:
  {{- with .Values.aws.existingSecret }}
  - secretRef:
      name: {{ . }}
  {{- end }}
  {{- with .Values.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
ports:
  - name: llm-admin
    containerPort: {{ .Values.adminPort }}
startupProbe:
  httpGet:
    path: /startupz
    port: llm-admin
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 120
livenessProbe:
  httpGet:
    path: /livez
    port: llm-admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet:
    path: /readyz
    port: llm-admin
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 3
# Asked from inside: the page is for this pod alone. Should it fail, SIGTERM drains as well.
lifecycle:
  preStop:
    exec:
      command: ["sidecar", "drain"]
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: ["ALL"]
  seccompProfile:
    type: RuntimeDefault
volumeMounts:
  - name: llm-sidecar-config
    mountPath: /etc/sidecar
    readOnly: true
  - name: llm-sidecar-tmp
    mountPath: /tmp
  {{- if include "nats-llm-sidecar.hasCredentialFiles" . }}
  - name: llm-sidecar-credentials
    mountPath: /etc/sidecar-credentials
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/*
For other charts: an entry of a pod's initContainers that runs beside the application (a native sidecar). Its
context is this chart as a dependency, index .Subcharts "nats-llm-sidecar"; the pod also needs the volumes, the
grace period and the service account. ../../example-app shows it whole.
*/}}
{{- define "nats-llm-sidecar.container" -}}
{{- if .Values.leafNode.enabled }}
{{- include "nats-llm-sidecar.leafContainer" . }}
{{ end -}}
- {{ include "nats-llm-sidecar.containerBody" . | nindent 2 | trim }}
  restartPolicy: Always
{{- end }}

{{- define "nats-llm-sidecar.volumes" -}}
- name: llm-sidecar-config
  configMap:
    name: {{ include "nats-llm-sidecar.configMapName" . }}
- name: llm-sidecar-tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSizeLimit }}
{{- if include "nats-llm-sidecar.hasCredentialFiles" . }}
- name: llm-sidecar-credentials
  secret:
    secretName: {{ .Values.credentials.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- if .Values.leafNode.enabled }}
- name: llm-leaf-config
  configMap:
    name: {{ include "nats-llm-sidecar.leafName" . }}
{{- with .Values.leafNode.credentials.existingSecret }}
- name: llm-leaf-credentials
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
