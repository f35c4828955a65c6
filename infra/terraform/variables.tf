variable "bucket" {
  description = "Name of the bucket; COGVX_STORE_URL is s3://<bucket>/store."
  type        = string
}

variable "region" {
  description = "Region of the bucket: that of the GPUs, as records are read once an epoch."
  type        = string
}

variable "clip_buckets" {
  description = "Buckets with clips, which are only read."
  type        = list(string)
  default     = []
}

variable "keep_deleted_days" {
  description = "Days in which a deletion can be taken back; 0 for none."
  type        = number
  default     = 7

  validation {
    condition     = var.keep_deleted_days >= 0 && var.keep_deleted_days == floor(var.keep_deleted_days)
    error_message = "keep_deleted_days is no whole number from 0; use 7, or 0 to keep nothing."
  }
}

variable "kms_key_arn" {
  description = "Key of your own to encrypt with; without it S3's."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything that is made."
  type        = map(string)
  default     = { project = "cogvx" }
}
