-- What rewrites are asked for: the cases of correction. Which of them stand, and what each rewrite is told, is not SQL's
-- work.
select *
from correction_case
order by user_id
