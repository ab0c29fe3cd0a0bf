-- The cases of correction as they are, by user.
-- Reads correction_case. No parameters.
select *
from correction_case
order by user_id
