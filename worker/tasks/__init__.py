"""One file per job type; a file added here is a job type added to Millrace."""
