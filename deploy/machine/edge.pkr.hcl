# Bakes an edge: deploy/machine/gather dist/*.whl build/edge && packer init . && packer build -var folder=build/edge .
packer {
  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.3"
    }
  }
}

variable "folder" {
  type        = string
  description = "What deploy/machine/gather wrote."
}

variable "architecture" {
  type    = string
  default = "amd64"
  validation {
    condition     = contains(["amd64", "arm64"], var.architecture)
    error_message = "The architecture is amd64 or arm64."
  }
}

source "amazon-ebs" "edge" {
  ami_name      = "edge-${var.architecture}-{{timestamp}}"
  instance_type = var.architecture == "arm64" ? "t4g.small" : "t3.small"
  ssh_username  = "admin"
  # Instances without version 2 of the metadata service would give credentials to whatever an upstream can be made to fetch.
  imds_support = "v2.0"
  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
  }
  source_ami_filter {
    filters = {
      name                = "debian-13-${var.architecture}-*"
      virtualization-type = "hvm"
    }
    owners      = ["136693071363"] # Debian
    most_recent = true
  }
}

build {
  sources = ["source.amazon-ebs.edge"]

  provisioner "file" {
    source      = "${var.folder}/"
    destination = "/tmp/edge"
  }

  provisioner "shell" {
    inline = ["sudo /tmp/edge/provision /tmp/edge", "rm -rf /tmp/edge"]
  }

  # The first start of each machine makes keys and an id of its own.
  provisioner "shell" {
    inline = ["sudo rm -f /etc/ssh/ssh_host_*", "sudo truncate -s 0 /etc/machine-id", "sudo cloud-init clean --logs"]
  }
}
